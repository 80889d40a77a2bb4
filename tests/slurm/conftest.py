"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cluster import Cluster, need, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two virtual nodes; nothing of them is left behind."""
    need()
    if os.geteuid() != 0:
        pytest.skip("its daemons need root: sudo .venv/bin/python -m pytest tests/slurm")
    with running(Cluster) as made:
        yield made
