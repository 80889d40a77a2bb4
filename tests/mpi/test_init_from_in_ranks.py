"""A run that begins with the workers of another one, on two ranks as in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ends_of_several import commands, statuses
from launching import Outcome, mpirun, run

from hpc_localsgd.commands.train import main as train
from hpc_localsgd.trajectory import Trajectory

RUN = ["--task.hidden=4", "--batch-per-worker=4", "--schedule=every", "--schedule.steps=4"]
RUN += ["--workers=4", "--rate=constant", "--rate.lr=.05", "--figures=false", "--dtype=float64"]
WHAT = ("mean", "optimizer")


def options(folder: Path, what: str) -> list[str]:
    words = [*RUN, "--steps=8", f"--init-from={folder / 'source'}", f"--init-with={what}"]
    return [*words, "--snapshot-every=100%"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Where the source is, and the runs of two ranks that began with it: `two-mean`, ...

    And what they said, and of one of another model.
    """
    folder = tmp_path_factory.mktemp("init")
    ring = ["--algorithm=gossip", "--steps=6", f"--out={folder / 'source'}"]
    assert train([*RUN, *ring]) == 0
    words = {what: options(folder, what) for what in WHAT}
    words["other"] = [*options(folder, "optimizer"), "--task.hidden=5"]
    words = {
        name: ["train", *given, "--world=mpi", f"--out={folder / f'two-{name}'}"]
        for name, given in words.items()
    }
    return folder, run(mpirun(2), commands(folder, words), timeout_s=150)


@pytest.mark.parametrize("what", WHAT)
def test_as_many_ranks_as_one_likes_begin_alike(
    launched: tuple[Path, Outcome], tmp_path: Path, what: str
) -> None:
    folder, ended = launched
    assert statuses(ended.stderr, folder, what) == [0, 0], ended.text
    assert train([*options(folder, what), f"--out={tmp_path / 'one'}"]) == 0
    one, two = Trajectory(tmp_path / "one"), Trajectory(folder / f"two-{what}")
    assert one.attrs["begins_from"] == two.attrs["begins_from"] != ""
    np.testing.assert_allclose(one.snapshot().mean, two.snapshot().mean, rtol=1e-6)


def test_another_model_is_refused_by_one_sentence(launched: tuple[Path, Outcome]) -> None:
    folder, ended = launched
    assert statuses(ended.stderr, folder, "other") == [2, 2], ended.text
    assert ended.status != 0 and ended.text.count("give it the same --task.model") == 1
