"""Checkpoints of several ranks, of which some are not there, damaged, or not written."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import finish, folders, interrupt, start

from hpc_localsgd.errors import ConfigurationError, DataError, NotKept
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints, RankCheckpoint, shard
from hpc_localsgd.trajectory import Trajectory, diskspace
from hpc_localsgd.worlds.placement import Placement


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
    real, calls = shard.sync, []

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    job, _ = start(tmp_path / "full")
    monkeypatch.setattr(shard, "sync", full)
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
