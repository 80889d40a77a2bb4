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


@pytest.mark.parametrize("what", ["mean", "optimizer"])
def test_as_many_ranks_as_one_likes_begin_alike(tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    ring = ["--algorithm=gossip", "--steps=6", f"--out={source}"]
    assert train([*RUN, *ring]) == 0
    words = [*RUN, "--steps=8", f"--init-from={source}", f"--init-with={what}"]
    words += ["--snapshot-every=100%"]
    assert train([*words, f"--out={tmp_path / 'one'}"]) == 0
    launched = [*TRAIN, *words, "--world=mpi", f"--out={tmp_path / 'two'}"]
    run(mpirun(2), launched, timeout_s=150).succeeded()
    one, two = (Trajectory(tmp_path / name) for name in ("one", "two"))
    assert one.attrs["begins_from"] == two.attrs["begins_from"] != ""
    np.testing.assert_allclose(one.snapshot().mean, two.snapshot().mean, rtol=1e-6)
    other = run(mpirun(2), [*TRAIN, *words, "--world=mpi", "--task.hidden=5", "--overwrite"])
    said = "is of another model" if what == "mean" else "give it the same --task.model"
    assert other.status != 0 and other.text.count(said) == 1
