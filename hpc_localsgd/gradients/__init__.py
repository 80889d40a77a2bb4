"""Where the gradient is taken, one file a method. It wraps the task, not the loop.

The folder is the registry: the file `sam.py` holds the class that `--gradient sam` means.
"""
