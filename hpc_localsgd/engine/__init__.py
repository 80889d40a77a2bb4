"""The machinery of training that the trainer and `attach` share, apart from the loop itself.

The world a process was started in, agreement between ranks, the position in a run, the local
optimiser, BatchNorm statistics, and workers whose numbers are not finite.
"""
