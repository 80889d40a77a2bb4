"""A run that was interrupted and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import files_below
from small_tasks import write_folder

from hpc_localsgd.commands.assembly.job import Job, make_job
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.pack import main as pack
from hpc_localsgd.errors import ConfigurationError, DataError, NotKept
from hpc_localsgd.loop import Position, train
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints, RankCheckpoint, shard
from hpc_localsgd.trajectory import Trajectory, diskspace
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated

DIGITS = ("--task.hidden=8",)
SHORT = ["--steps=30", "--batch-per-worker=4", "--schedule.switch=7"]
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


def start(
    out: Path,
    *options: str,
    stop: int | None = None,
    K: int = 3,
    task: Sequence[str] = DIGITS,
) -> tuple[Job, Stop]:
    resolved = parse([*task, *SHORT, f"--out={out}", *options])
    show = Stop(stop)
    return make_job(resolved, Simulated(K), show), show


def finish(job: Job) -> Position:
    job.start()
    p = train(job.run, job.position, job.record, job.keep)
    job.close("complete")
    return p


def interrupt(out: Path, at: int, *options: str, task: Sequence[str] = DIGITS) -> None:
    job, _ = start(out, *options, stop=at, task=task)
    with pytest.raises(Interrupted):
        finish(job)
    job.close("stopped")


def memory_of(job: Job) -> list[torch.Tensor]:
    """Everything that decides how a run continues."""
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
    assert min(show.shown) == 16  # it went on, and did not start again
    for a, b in zip(memory_of(whole), memory_of(cut), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("data", ["images", "images.h5"])
def test_images_on_disk_go_on_in_mid_epoch(tmp_path: Path, data: str) -> None:
    write_folder(tmp_path / "images")
    assert pack([str(tmp_path / "images"), str(tmp_path / "images.h5")]) == 0
    task = ["--task=imagenet", "--task.model=resnet8", "--task.size=16", "--task.classes=4"]
    task += [f"--task.data={tmp_path / data}", "--task.loaders=1", "--batchnorm-batches=3"]
    seldom = ["--steps=20", "--evaluate-every=9", "--spread-every=9"]
    whole, _ = start(tmp_path / "whole", *seldom, task=task)
    finish(whole)
    interrupt(tmp_path / "cut", 18, *seldom, task=task)
    cut, _ = start(tmp_path / "cut", *seldom, "--resume", task=task)
    assert cut.position.t == 15
    assert cut.run.task.partition.steps_per_epoch not in (1, 3, 5, 15)  # 15 is in mid-epoch
    finish(cut)
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


@dataclass
class TwoRanks:
    """One of two ranks, which hears of the other only what is alike."""

    rank: int
    n: int = 2
    K: int = 6
    R: int = 3
    local_workers: range = range(3)

    def __post_init__(self) -> None:
        self.placement = Placement(self.K, self.n)
        self.local_workers = self.placement.workers_of(self.rank)

    def gather(self, v: np.ndarray) -> np.ndarray:
        return np.concatenate([v, v])


def of_six(place: RankCheckpoint) -> RankCheckpoint:
    """A place of three workers, as one of two ranks would have it."""
    place.state["workers"] = 6
    return place


def two_ranks(out: Path) -> list[Checkpoints]:
    return [Checkpoints(out, TwoRanks(rank)) for rank in range(2)]  # type: ignore[arg-type]


def test_a_checkpoint_counts_when_the_shards_of_all_ranks_are_there(tmp_path: Path) -> None:
    job, _ = start(tmp_path)
    finish(job)
    place = of_six(RankCheckpoint.of(job.run, job.position, 30))
    first, second = two_ranks(tmp_path / "two")
    first.save(place)
    with pytest.raises(ConfigurationError, match="no complete checkpoint"):
        first.load()
    second.save(place)
    assert first.load().t == second.load().t == job.position.t


def test_ranks_go_on_each_from_its_own_step_behind_the_same_exchange(tmp_path: Path) -> None:
    job, _ = start(tmp_path)
    job.position.t = 23
    first, second = two_ranks(tmp_path / "two")
    for rank, t, after in [(first, 20, 20), (second, 20, 20), (first, 23, 21), (second, 22, 20)]:
        job.position.t = t
        rank.save(of_six(RankCheckpoint.of(job.run, job.position, after)))
    assert (first.load().t, second.load().t) == (20, 22)  # rank 1 never came to the exchange of 21
    job.close("stopped")


@pytest.mark.parametrize("harm", ["changed", "cut short", "gone"])
def test_a_damaged_shard_is_noticed_and_an_older_checkpoint_is_taken(
    tmp_path: Path, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(tmp_path, 21)
    newest = tmp_path / "checkpoints" / folders(tmp_path)[-1] / "rank-0-of-1.pt"
    older = folders(tmp_path)[-2]
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    if harm == "gone":
        newest.unlink()
    else:
        newest.write_bytes(raw if harm == "changed" else raw[: len(raw) // 2])
    whole, _ = start(tmp_path / "whole")
    job, _ = start(tmp_path, "--resume")
    assert job.position.t == int(older.removeprefix("step-"))
    assert ("is damaged" in capfd.readouterr().err) == (harm != "gone")
    assert newest.parent.name not in folders(tmp_path)  # it will be written again
    assert torch.equal(finish(job).x, finish(whole).x)


def test_a_shard_that_cannot_be_read_just_now_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path, 21)
    before = folders(tmp_path)

    def stale(path: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        with pytest.raises(DataError, match=r"could not be read: .*Stale file handle"):
            start(tmp_path, "--resume")
    assert folders(tmp_path) == before
    start(tmp_path, "--resume")


def test_what_is_whole_and_damaged_is_put_aside(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    newest = tmp_path / "checkpoints" / folders(tmp_path)[-1]
    (newest / "rank-0-of-1.pt").write_bytes(b"x" * 100)
    start(tmp_path, "--resume")
    assert (newest.with_name(f"damaged-{newest.name}") / "rank-0-of-1.pt").exists()


def test_ranks_with_large_shards_wait_for_each_other_when_they_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to end would end the others; their shards take about as long as its own."""
    job, _ = start(tmp_path)
    now = 100.0

    def clock() -> float:
        nonlocal now
        now += 0.25
        return now

    checkpoints = two_ranks(tmp_path / "two")[0]
    keeper = CheckpointManager(job.run, checkpoints, clock=clock)
    keeper.begin(job.position, job.record)
    began = now

    def slow(place: RankCheckpoint) -> bool:
        nonlocal now
        now += 9.0
        return True

    monkeypatch.setattr(keeper._background, "write", slow)
    monkeypatch.setattr(checkpoints, "is_whole", lambda after, since: now > began + 15)
    assert keeper._keep_and_wait([])
    assert 15 < now - began < 20
    monkeypatch.setattr(checkpoints, "is_whole", lambda after, since: False)  # it is gone
    began = now
    assert keeper._keep_and_wait([])
    assert now - began < 40
    job.close("stopped")


def test_when_all_are_damaged_that_is_said(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    for path in (tmp_path / "checkpoints").rglob("*.pt"):
        path.write_bytes(b"x" * 100)
    for resume in ("--resume", "--resume=auto"):  # which does not throw away what may be mended
        with pytest.raises(ConfigurationError, match="every checkpoint .* is damaged"):
            start(tmp_path, resume)


def test_a_shard_is_there_whole_or_not_at_all_and_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = finish(start(tmp_path / "whole")[0]).x.clone()
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    job, _ = start(tmp_path / "full")
    monkeypatch.setattr(shard.os, "fsync", full)
    with pytest.raises(NotKept, match="make space, then start it again"):
        finish(job)  # only at the end
    assert torch.equal(job.run.task.x, whole)
    job.close("stopped")
    said = capfd.readouterr().err
    assert f"rank 0 on {socket.gethostname()}: no checkpoint of step 15" in said
    assert "No space left on device" in said and "training continues" in said
    assert folders(tmp_path / "full")[:2] == [
        "step-00000005",
        "step-00000011",
    ]  # what was there is as it was
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    again, _ = start(tmp_path / "full", "--resume")
    assert again.position.t == 11
    assert torch.equal(finish(again).x, whole)


def test_a_full_disk_at_a_flush_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    finish(start(tmp_path / "whole")[0])
    job, _ = start(tmp_path / "full")
    real, calls = diskspace.reserve, []

    def full(*given: Any) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*given)

    monkeypatch.setattr(diskspace, "reserve", full)
    finish(job)
    assert "the disk is full" in capfd.readouterr().err
    assert len(calls) > 3
    assert folders(tmp_path / "full")[0] > "step-00000011"  # none without the rows before it
    one, other = Trajectory(tmp_path / "whole"), Trajectory(tmp_path / "full")
    np.testing.assert_array_equal(one.rounds.step_end, other.rounds.step_end)


def test_a_checkpoint_of_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "rank-0-of-1.pt").rename(folder / "rank-0-of-2.pt")
        (folder / "rank-1-of-2.pt").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"is not of 3 workers: .* --resume-from-mean"):
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
    mine = Checkpoints(tmp_path, Simulated(3), digest="of the other run")
    with pytest.raises(ConfigurationError, match="another configuration"):
        mine.load()


def test_auto_begins_anew_goes_on_and_replaces_a_run_without_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = finish(start(tmp_path / "whole")[0]).x.clone()
    out, auto = tmp_path / "run", "--resume=auto"
    with pytest.raises(Interrupted):
        finish(start(out, auto, stop=3)[0])  # before the first checkpoint
    assert capfd.readouterr().err == ""
    with pytest.raises(Interrupted):
        finish(start(out, auto, stop=21)[0])
    assert (
        "has no checkpoint: the run starts over and replaces its record" in capfd.readouterr().err
    )
    job, _ = start(out, auto)
    assert job.position.t == 15
    assert torch.equal(finish(job).x, whole)
    assert len(Trajectory(out).paths) == 2
    assert start(out, auto)[0].position.t == 30  # nothing left to do


def test_a_flag_of_three_values_is_read_as_one_writes_it() -> None:
    for words, value in [
        ([], False),
        (["--resume"], True),
        (["--resume", "auto"], "auto"),
        (["--resume=false"], False),
        (["--resume", "--seed=1"], True),
    ]:
        assert parse(words).config.resume == value


def test_a_place_kept_on_a_cpu_can_be_gone_on_from_on_a_gpu(
    tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda kept, device: restored.append(kept))
    job, _ = start(tmp_path)
    finish(job)
    place = RankCheckpoint.of(job.run, job.position, 30)
    job.run.world.device = torch.device("cuda")  # where the next job finds itself
    kept = torch.ones(16, dtype=torch.uint8)
    RankCheckpoint.saved({**place.state, "cuda_rng": kept, "sync": {}}).restore(
        job.run, job.position
    )
    assert restored == [kept]
    assert capfd.readouterr().err == ""
    RankCheckpoint.saved({**place.state, "sync": {}}).restore(job.run, job.position)
    assert restored == [kept]
    assert "not bit for bit" in capfd.readouterr().err


def test_another_number_of_workers_is_refused_or_starts_from_the_mean(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    kept = shard.read(tmp_path / "checkpoints/step-00000015/rank-0-of-1.pt")
    with pytest.raises(ConfigurationError, match="--resume-from-mean"):
        start(tmp_path, "--resume", "--workers=4", K=4)
    job, _ = start(tmp_path, "--resume-from-mean", K=4)
    assert job.position.t == job.position.end == 15
    expected = kept["x"].mean(0).expand(4, -1)
    assert torch.equal(job.run.task.x, expected)
    assert (tmp_path / "checkpoints-of-other-workers").is_dir()
    with pytest.raises(Interrupted):
        job.record._show.at = 25  # type: ignore[attr-defined]
        finish(job)
    job.close("stopped")
    again, _ = start(tmp_path, "--resume-from-mean", K=4)  # as a requeued job would
    assert again.position.t == 23
    finish(again)
    assert Trajectory(tmp_path).rounds.step_end[-1] == 30


def test_where_nobody_says_how_many_workers_they_are_those_that_were(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    job, _ = start(tmp_path, "--resume", K=4)
    world = job.run.world
    assert (world.K, world.R, len(job.run.task.x), world.ledger.R) == (3, 3, 3, 3)
    finish(job)
    assert Trajectory(tmp_path).K == 3 and Trajectory(tmp_path).status == "complete"


def test_the_mean_is_of_the_newest_checkpoint_that_is_sound(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    *_, older, newest = (tmp_path / "checkpoints" / name for name in folders(tmp_path))
    kept = shard.read(older / "rank-0-of-1.pt")["x"].mean(0)
    (newest / "rank-0-of-1.pt").write_bytes(b"x" * 100)
    (tmp_path / "checkpoints-new/step-00000099").mkdir(parents=True)  # of a job that was killed
    job, _ = start(tmp_path, "--resume-from-mean", K=4)
    assert torch.equal(job.run.task.x, kept.expand(4, -1))
    assert "step-00000099" not in folders(tmp_path)
    job.close("stopped")


def test_a_job_killed_between_two_renames_is_told_what_to_type(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    (tmp_path / "checkpoints").rename(tmp_path / "checkpoints-of-other-workers")
    with pytest.raises(ConfigurationError, match="mv .*checkpoints-of-other-workers"):
        start(tmp_path, "--resume=auto")
    assert (tmp_path / "trajectory.h5").exists()


def test_rounds_an_algorithm_cannot_do_are_refused_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    finish(start(tmp_path)[0])
    before = files_below(tmp_path)
    with pytest.raises(ConfigurationError, match="single|every step"):
        start(tmp_path, "--overwrite", "--algorithm=gradient_tracking")
    assert files_below(tmp_path) == before
