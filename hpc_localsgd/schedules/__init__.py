"""When workers exchange, and with which learning rate. Pure functions, no torch."""
