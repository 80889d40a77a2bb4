"""Real launchers on an emulated network: hosts in namespaces, joined by links of known speed.

with Lab(network("1gbit")) as lab:
    lab.run(["-m", "hpc_localsgd.train", "--out", "runs/slow"], launcher="mpirun")

python -m benchmarks.netlab 1gbit --launcher mpirun -- -m hpc_localsgd.train
"""

from benchmarks.netlab.lab import Lab, LabError
from benchmarks.netlab.network import NETWORKS, Link, Network, network

__all__ = ["NETWORKS", "Lab", "LabError", "Link", "Network", "network"]
