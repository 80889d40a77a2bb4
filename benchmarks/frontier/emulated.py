"""The runs of a grid by real ranks on emulated networks: `benchmarks.netlab` in front of each."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from reporting import ROOT

from hpc_localsgd.analysis.compare import SeedGroup
from hpc_localsgd.commands.sweep import main as sweep
from hpc_localsgd.commands.sweep import manifest
from hpc_localsgd.commands.sweep.table import groups

sys.path.append(str(ROOT))  # this script is in a folder of it


def refused(name: str) -> str:
    """Say why this machine can have no such network; "" if it can.

    Args:
        name: Of a network of netlab, or its file.

    Raises:
        ValueError: There is no such network.
    """
    from benchmarks.netlab.missing import missing
    from benchmarks.netlab.network import network

    return missing(network(name))


def modelled(name: str) -> str:
    """Give the cost model's network that is like one of netlab, as it is typed.

    Args:
        name: Of a network of netlab, or its file.
    """
    from benchmarks.netlab.network import network

    link = network(name).link
    latency_us = 1e6 * link.delay_s + 50  # of the software at both ends
    return f"{latency_us:g}us,{link.bytes_per_s / 1e6 if link.bits_per_s else 10_000:g}MB/s"


def runs_on(name: str, grid: str, out: Path) -> dict[str, SeedGroup]:
    """Do the runs of a grid on an emulated network, one after another; nothing where some failed.

    Args:
        name: Of the network.
        grid: File of the sweep; its `workers` are spread over the ranks of the network.
        out: Folder of these runs.
    """
    inherited = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    launch = shlex.join([sys.executable, "-m", "benchmarks.netlab", name, "--"])
    words = [grid, "--out", str(out), "--launch", launch, "--", "--world", "mpi"]
    return groups(manifest.read(out), out) if sweep(words) in (0, 3) else {}
