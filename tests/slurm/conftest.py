"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, need, running
from stage import Stage
from waiting_jobs import Waiting, submitted


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two virtual nodes; nothing of them is left behind."""
    need()
    if os.geteuid() != 0:
        pytest.skip("its daemons need root: sudo .venv/bin/python -m pytest tests/slurm")
    with running(Cluster) as made:
        yield made


@pytest.fixture(scope="session")
def waiting(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Waiting]]:
    """Jobs that mostly wait."""
    with submitted(cluster, tmp_path_factory.mktemp("waiting")) as jobs:
        yield jobs


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A job without a Slurm."""
    return Stage(tmp_path)
