"""What is communicated and what is done with it, one file a method.

The folder is the registry: the file `slowmo.py` holds the class that `--algorithm slowmo` means.
"""
