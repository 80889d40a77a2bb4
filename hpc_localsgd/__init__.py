"""Local SGD and its family for Horovod, MPI and one process: parameters averaged in rounds."""

__version__ = "0.1.0"
