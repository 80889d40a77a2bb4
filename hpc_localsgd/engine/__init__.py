"""The machinery of a worker that the trainer and `attach` share."""
