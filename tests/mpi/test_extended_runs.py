"""Runs of two ranks that are over and continue to a larger `--steps`, as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ends_of_several import commands, statuses
from launching import mpirun, run

from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.trajectory import Trajectory

RUN = ("--task.hidden=8", "--batch-per-worker=4", "--schedule=every", "--schedule.steps=4")
RUN += ("--evaluate-every=4", "--world=mpi", "--figures=false")
CONSTANT = (*RUN, "--rate=constant", "--rate.lr=0.05", "--rate.warmup=3")
COSINE = (*RUN, "--rate=cosine", "--rate.lr=0.1", "--rate.warmup=0")
LONGER = ("--steps=28", "--resume=auto")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Their folders, and what the launch said in which all were trained, one after another."""
    folder = tmp_path_factory.mktemp("extended")
    told = {
        "constant": ("constant", *CONSTANT, "--steps=12"),
        "longer": ("constant", *CONSTANT, *LONGER),
        "whole": ("whole", *CONSTANT, "--steps=28"),
        "cosine": ("cosine", *COSINE, "--steps=12"),
        "refused": ("cosine", *COSINE, *LONGER),
        "extended": ("cosine", *COSINE, *LONGER, "--extend"),
    }
    words = {
        name: ["train", *options, f"--out={folder / out}"] for name, (out, *options) in told.items()
    }
    ended = run(mpirun(2), commands(folder, words), timeout_s=150)
    for name in told:
        expected = [2, 2] if name == "refused" else [0, 0]
        assert statuses(ended.stderr, folder, name) == expected, ended.text
    return folder, ended.text


def final(out: Path) -> torch.Tensor:
    """The parameters [K, P] at step 28."""
    shards = sorted((out / "checkpoints" / "step-00000028").glob("rank-*-of-2.pt"))
    return torch.cat([shard.read(path)["x"] for path in shards])


def test_it_is_the_longer_run_bit_for_bit_where_the_rate_allows_it(
    runs: tuple[Path, str],
) -> None:
    folder, said = runs
    assert said.count("the run was begun with 12 steps and continues to 28: rate and rounds") == 1
    mine, whole = folder / "constant", folder / "whole"
    assert final(mine).shape[0] == 2 and torch.equal(final(mine), final(whole))
    extended, once = Trajectory(mine), Trajectory(whole)
    assert extended.status == "complete" and len(extended.paths) == 2 and len(once.paths) == 1
    for name in ("step_begin", "step_end", "lr", "payload_bytes"):
        np.testing.assert_array_equal(getattr(extended.rounds, name), getattr(once.rounds, name))
    for name in ("train/loss", "eval/test/loss"):
        np.testing.assert_array_equal(extended.series(name).value, once.series(name).value)
    kept = (mine / "checkpoints" / "finished-step-00000012").iterdir()  # what it had come to
    assert sorted(path.name for path in kept) == ["rank-0-of-2.pt", "rank-1-of-2.pt"]


def test_else_it_is_refused_with_the_rate(runs: tuple[Path, str]) -> None:
    _, said = runs
    refused = [
        line for line in said.split("\n") if line.startswith("python -m hpc_localsgd.train: ")
    ]
    assert len(refused) == 1 and "step 1 would have had the rate 0.0996" in refused[0], said
    assert "Add --extend to resume from step 12 all the same, where the rate is" in said


def test_it_continues_when_told_to(runs: tuple[Path, str]) -> None:
    """It is of 12 steps until then: what was refused has left nothing."""
    folder, said = runs
    assert "it is not a run of 28 steps: step 1 would have had the rate" in said
    record = Trajectory(folder / "cosine")
    assert record.status == "complete" and record.rounds.step_end[-1] == 28
    assert len(record.paths) == 2
    assert record.rounds.lr[2] < 0.05 < record.rounds.lr[3]  # at step 8 of 12, at step 12 of 28
