"""Every method once more: its paper's equation in plain numpy, float64, as a loop over workers.

The folders mirror those of the package: `restated/algorithms/slowmo.py` restates
`hpc_localsgd/algorithms/slowmo.py`. Nothing here is written from the code it is compared with, and
no file imports more of it than the objects whose numbers are asked for. A file of the package that
has no restatement here fails the tests.
"""
