"""Communication between workers: over Horovod, MPI, torch.distributed, or inside one process.

A world knows who the workers are and on which ranks they live; every exchange of parameters is a
method of it, and its ledger counts the seconds and bytes. One file a library.
"""
