"""Gradients at other points than the parameters (SAM, noise), one file a method.

A method wraps the task, not the loop. How gradients are averaged is in `algorithms/allreduce.py`.

The folder is the registry: the file `sam.py` holds the class that `--gradient sam` means.
"""
