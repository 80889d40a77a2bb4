"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import INSTALL, Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two virtual nodes; nothing of them is left behind."""
    if missing():
        pytest.skip(f"no Slurm here ({', '.join(missing())} missing): {INSTALL}")
    if os.geteuid() != 0:
        pytest.skip("its daemons need root: sudo .venv/bin/python -m pytest tests/slurm")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 108 bytes
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        assert not made.strays(), "processes of the cluster are left"
        shutil.rmtree(folder)
