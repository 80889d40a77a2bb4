"""Floor 0: when workers exchange, and with which learning rate. Pure functions, no torch."""
