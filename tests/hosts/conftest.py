"""Three hosts for all tests of this folder, and a Slurm on them for those that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

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
    cluster.need()
    with cluster.running(lambda folder: SlurmOfHosts(folder, hosts, "a", "b", "c")) as made:
        hosts.srun = made.srun
        yield made
