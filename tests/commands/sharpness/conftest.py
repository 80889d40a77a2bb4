"""A small run with snapshots, and what was measured of it: made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpc_localsgd.commands.sharpness import main
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

from .few_options import FAST, RUN


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots at 0, 15 and 30; 15 is in the middle of a round."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = ["--snapshot-every=15", "--snapshot-workers", "--figures=false", f"--out={out}"]
    assert train([*RUN, *options]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def results(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    out = tmp_path_factory.mktemp("results") / "s.h5"
    assert main([str(trained), *FAST, "--density", "--each-worker", f"--out={out}"]) == 0
    return Trajectory(out)
