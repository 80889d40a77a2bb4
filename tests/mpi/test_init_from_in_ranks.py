"""A run that begins with the workers of another one, on two ranks as in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launching import TRAIN, mpirun, run

from hpc_localsgd.commands.train import main as train
from hpc_localsgd.trajectory import Trajectory

RUN = ["--task.hidden=4", "--batch-per-worker=4", "--schedule=every", "--schedule.steps=4"]
RUN += ["--workers=4", "--rate=constant", "--rate.lr=.05", "--figures=false", "--dtype=float64"]


SEVERAL = str(Path(__file__).parent / "several_runs.py")
WHAT = ("mean", "optimizer")


def options(folder: Path, what: str) -> list[str]:
    words = [*RUN, "--steps=8", f"--init-from={folder / 'source'}", f"--init-with={what}"]
    return [*words, "--snapshot-every=100%"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the source is, and the runs of two ranks that began with it: `two-mean`, ..."""
    folder = tmp_path_factory.mktemp("init")
    ring = ["--algorithm=gossip", "--steps=6", f"--out={folder / 'source'}"]
    assert train([*RUN, *ring]) == 0
    files = []
    for what in WHAT:
        files.append(folder / f"{what}.options")
        more = ["--world=mpi", f"--out={folder / f'two-{what}'}"]
        files[-1].write_text("\n".join([*options(folder, what), *more]))
    run(mpirun(2), [SEVERAL, *map(str, files)], timeout_s=150).succeeded()
    return folder


@pytest.mark.parametrize("what", WHAT)
def test_as_many_ranks_as_one_likes_begin_alike(folder: Path, tmp_path: Path, what: str) -> None:
    assert train([*options(folder, what), f"--out={tmp_path / 'one'}"]) == 0
    one, two = Trajectory(tmp_path / "one"), Trajectory(folder / f"two-{what}")
    assert one.attrs["begins_from"] == two.attrs["begins_from"] != ""
    np.testing.assert_allclose(one.snapshot().mean, two.snapshot().mean, rtol=1e-6)


def test_another_model_is_refused_by_one_sentence(folder: Path, tmp_path: Path) -> None:
    more = ["--world=mpi", "--task.hidden=5", f"--out={tmp_path / 'other'}"]
    other = run(mpirun(2), [*TRAIN, *options(folder, "optimizer"), *more])
    assert other.status != 0 and other.text.count("give it the same --task.model") == 1
