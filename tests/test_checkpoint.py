"""A run that was interrupted and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import files_below

from hpc_localsgd.assemble import Job, make_job
from hpc_localsgd.checkpoint import Checkpoints
from hpc_localsgd.config import parse
from hpc_localsgd.loop import Position, train
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

SHORT = ["--steps=30", "--batch-per-worker=4", "--task.hidden=8", "--schedule.switch=7"]
SHORT += ["--schedule.every=4", "--checkpoint-every=5", "--evaluate-every=1", "--spread-every=1"]


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@dataclass
class Stop:
    """A display that interrupts the run when it shows the given step."""

    at: int | None
    shown: list[int] = field(default_factory=list)

    def __call__(self, t: int, values: dict[str, float]) -> None:
        self.shown.append(t)
        if t == self.at and "eval/test/loss" in values:
            raise Interrupted


def start(out: Path, *options: str, stop: int | None = None, K: int = 3) -> tuple[Job, Stop]:
    resolved = parse([*SHORT, f"--out={out}", *options])
    show = Stop(stop)
    return make_job(resolved, Simulated(K), show), show


def finish(job: Job) -> Position:
    job.record.start(job.position)
    p = train(job.run, job.position, job.record)
    job.close("complete")
    return p


def interrupt(out: Path, at: int, *options: str) -> None:
    job, _ = start(out, *options, stop=at)
    with pytest.raises(Interrupted):
        finish(job)
    job.close("stopped")


def memory_of(job: Job) -> list[torch.Tensor]:
    """Everything that decides how a run goes on."""
    states = job.run.optimizer.torch.state.values()
    tensors = [value for state in states for _, value in sorted(state.items())]
    return [job.run.task.x, job.run.task.buffers, *(t for t in tensors if t is not None)]


RUNS = {
    "momentum": [],
    "adam averaged": [
        "--optimizer=torch.optim.Adam",
        "--momentum-at-sync=average",
        "--rate.lr=.01",
    ],
    "batchnorm": ["--task.model=conv", "--task.norm=batch", "--batchnorm-batches=3"],
    "batchnorm averaged": ["--task.model=conv", "--task.norm=batch", "--batchnorm=average"],
    "replacement": ["--sampling=replacement", "--momentum-at-sync=reset"],
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, options: list[str]
) -> None:
    whole, _ = start(tmp_path / "whole", *options)
    finish(whole)
    interrupt(tmp_path / "cut", 21, *options)
    cut, show = start(tmp_path / "cut", *options, "--resume")
    assert cut.position.t == 15  # the last end of a round behind a multiple of 5
    finish(cut)
    assert min(show.shown) == 15  # it went on, and did not start again
    for a, b in zip(memory_of(whole), memory_of(cut), strict=True):
        assert torch.equal(a, b)


def test_the_record_of_both_jobs_together_is_that_of_the_uninterrupted_run(tmp_path: Path) -> None:
    finish(start(tmp_path / "whole")[0])
    interrupt(tmp_path / "cut", 21)
    finish(start(tmp_path / "cut", "--resume")[0])
    whole, cut = Trajectory(tmp_path / "whole"), Trajectory(tmp_path / "cut")
    assert cut.status == "complete"
    assert len(cut.paths) == 2
    for name in ("step_begin", "step_end", "lr", "payload_bytes"):
        np.testing.assert_array_equal(getattr(cut.rounds, name), getattr(whole.rounds, name))
    assert cut.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(cut.series(name).step, whole.series(name).step)
        np.testing.assert_array_equal(cut.series(name).value, whole.series(name).value)


def test_what_a_killed_job_recorded_reaches_as_far_as_its_checkpoint(tmp_path: Path) -> None:
    job, _ = start(tmp_path, stop=21)
    with pytest.raises(Interrupted):
        finish(job)  # and nobody closes the record
    killed = Trajectory(tmp_path)
    assert killed.status == "running"
    assert killed.rounds.step_end[-1] >= 15
    finish(start(tmp_path, "--resume")[0])
    assert Trajectory(tmp_path).rounds.step_end.tolist() == [*range(1, 8), *range(11, 30, 4), 30]


def test_resuming_twice_is_the_same_again(tmp_path: Path) -> None:
    whole, _ = start(tmp_path / "whole")
    interrupt(tmp_path / "cut", 12)
    with pytest.raises(Interrupted):
        finish(start(tmp_path / "cut", "--resume", stop=25)[0])
    cut, _ = start(tmp_path / "cut", "--resume")
    assert cut.position.t > 12
    assert torch.equal(finish(cut).x, finish(whole).x)


def test_a_finished_run_can_be_resumed_and_has_nothing_left_to_do(tmp_path: Path) -> None:
    x = finish(start(tmp_path)[0]).x.clone()
    job, _ = start(tmp_path, "--resume")
    assert job.position.t == 30
    assert torch.equal(finish(job).x, x)
    assert Trajectory(tmp_path).status == "complete"
    assert Trajectory(tmp_path).series("eval/test/loss").step.tolist() == list(range(31))


def folders(out: Path) -> list[str]:
    return sorted(folder.name for folder in (out / "checkpoints").iterdir())


def test_checkpoints_are_written_at_ends_of_rounds_and_the_last_two_are_kept(
    tmp_path: Path,
) -> None:
    interrupt(tmp_path, 16)
    assert folders(tmp_path) == ["step-00000011", "step-00000015"]
    finish(start(tmp_path, "--resume")[0])
    assert folders(tmp_path) == ["step-00000027", "step-00000030"]


def test_without_a_cadence_only_the_end_is_kept(tmp_path: Path) -> None:
    finish(start(tmp_path, "--checkpoint-every=0")[0])
    assert folders(tmp_path) == ["step-00000030"]


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    newest, older = folders(tmp_path)[-1], folders(tmp_path)[-2]
    folder = tmp_path / "checkpoints"
    for name in folder.joinpath(newest).iterdir():  # the job died while writing
        name.rename(name.with_suffix(".partial"))
    half = folder / "step-00000022"  # one of two ranks had written
    half.mkdir()
    (half / "rank-0-of-2.pt").write_bytes(b"")
    (folder / "step-00000023").mkdir()
    (folder / "notes").mkdir()  # none of ours
    job, _ = start(tmp_path, "--resume")
    assert job.position.t == int(older.removeprefix("step-"))


def test_a_checkpoint_counts_when_the_shards_of_all_ranks_are_there(tmp_path: Path) -> None:
    job, _ = start(tmp_path)
    finish(job)
    ranks = [SimpleNamespace(rank=r, n=2, device=torch.device("cpu")) for r in range(2)]
    first, second = (
        Checkpoints(tmp_path / "two", replace(job.run, world=world), every=1)  # type: ignore
        for world in ranks
    )
    first.save(job.position)
    with pytest.raises(ConfigurationError, match="no complete checkpoint"):
        first.load(job.position)
    second.save(job.position)
    assert first.load(job.position).t == second.load(job.position).t == job.position.t


def test_a_shard_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    job, _ = start(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        finish(job)
    assert list((tmp_path / "checkpoints").rglob("*.pt")) == []


def test_a_checkpoint_of_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "rank-0-of-1.pt").rename(folder / "rank-0-of-2.pt")
        (folder / "rank-1-of-2.pt").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"of \[2\] ranks and this job has 1: start 2"):
        start(tmp_path, "--resume")


def test_there_must_be_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    interrupt(tmp_path, 3)
    with pytest.raises(ConfigurationError, match="no complete checkpoint.*--overwrite"):
        start(tmp_path, "--resume")


def test_a_run_that_replaces_another_does_not_keep_its_checkpoints(tmp_path: Path) -> None:
    finish(start(tmp_path)[0])
    start(tmp_path, "--overwrite")[0].close("stopped")
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_of_another_run_are_neither_mixed_with_nor_resumed(tmp_path: Path) -> None:
    finish(start(tmp_path)[0])
    (tmp_path / "trajectory.h5").unlink()
    with pytest.raises(ConfigurationError, match="holds a run already"):
        start(tmp_path, "--seed=2")
    job, _ = start(tmp_path / "other", "--seed=2")
    (tmp_path / "checkpoints").rename(tmp_path / "other" / "checkpoints")
    mine = Checkpoints(tmp_path / "other", job.run, 5, digest="of the other run")
    with pytest.raises(ConfigurationError, match="another configuration"):
        mine.load(job.position)
    job.close("stopped")


def test_rounds_an_algorithm_cannot_do_are_refused_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    finish(start(tmp_path)[0])
    before = files_below(tmp_path)
    with pytest.raises(ConfigurationError, match="single|every step"):
        start(tmp_path, "--overwrite", "--algorithm=gradient_tracking")
    assert files_below(tmp_path) == before
