"""Three hosts for all tests of this folder, and a Slurm on them for those that ask for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
from hosts import Hosts, missing
from slurm_of_hosts import SlurmOfHosts


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Hosts a, b and c; nothing of them is left behind."""
    if why := missing():
        pytest.skip(why)
    with Hosts("a", "b", "c") as made:
        yield made


@pytest.fixture(scope="session")
def slurm(hosts: Hosts) -> Iterator[SlurmOfHosts]:
    """Each of them a node; the controller is on a."""
    if absent := cluster.missing():
        pytest.skip(f"no Slurm here ({', '.join(absent)} missing): {cluster.INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket is in it
    made = SlurmOfHosts(folder, hosts, "a", "b", "c")
    hosts.srun = made.srun
    try:
        made.start()
        yield made
    finally:
        made.stop()
        assert not made.strays(), "processes of the cluster are left"
        shutil.rmtree(folder)
