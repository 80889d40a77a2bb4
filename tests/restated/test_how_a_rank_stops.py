"""What a rank does that was asked to stop, whose folder is gone, or whose disk refuses."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hpc_localsgd.errors import Gone, NotKept
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint, last_writes, manager, shard
from hpc_localsgd.run.checkpoint.listing import all_folders, number
from hpc_localsgd.run.stopping import GONE, HUNG, STOPPED, Stopped
from restated.test_when_places_are_kept import Kept

LINE = "python -m hpc_localsgd.train --config {out}/config.yaml --out {out} --resume"


class Refused(Checkpoints):
    """Writes nowhere, or only outside the folder of the run."""

    everywhere = False

    def save(self, place: RankCheckpoint) -> Path:
        if self.everywhere or "run" in self.folder.parts:
            raise OSError("no space")
        return super().save(place)


class Ended(Exception):
    """In place of the end of the process; its argument is the exit status."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(manager, "end", end)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def refused(tmp_path: Path, **given: Any) -> Kept:
    """A run of 5 steps on a disk that takes nothing."""
    kept = Kept(tmp_path / "run", (2, 3), **given)
    refusing = Refused(tmp_path / "run", kept.run.world)
    kept.keeper._background.checkpoints = refusing
    return kept


def rescued(tmp_path: Path) -> list[Path]:
    return [f for out in (tmp_path / "tmp").iterdir() for f in all_folders(out / "checkpoints")]


def test_a_record_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (2, 3))
    kept.gone = "the folder was removed"
    with pytest.raises(Stopped) as stopped:
        kept.go()
    line = LINE.format(out=tmp_path)
    assert str(stopped.value) == (
        f"stopped after step 1: the folder was removed. The parameters are in "
        f"{tmp_path}/checkpoints: put the folder back as it was, these in it, and "
        f"resume with {line}"
    )
    assert kept.stopping.status == GONE and kept.checkpoints.saved[0] == (1, 0)
    assert not rescued(tmp_path)


def test_what_cannot_be_kept_there_is_kept_on_the_host(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = refused(tmp_path)
    kept.gone = "the folder was removed"
    with pytest.raises(Stopped, match=r"The parameters are in .*/tmp/run-\w+/checkpoints: put"):
        kept.go()
    (folder,) = rescued(tmp_path)
    state = shard.read(folder / "rank-0-of-1.pt")
    assert (number(folder), state["place"]["t"]) == (0, 1)
    host = socket.gethostname()
    assert f"rank 0 on {host}: the parameters are in {folder.parent}\n" in capfd.readouterr().err


def test_what_can_be_kept_nowhere_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    kept = refused(tmp_path)
    kept.gone = "the folder was removed"
    monkeypatch.setattr(Refused, "everywhere", True)
    with pytest.raises(NotKept, match="stopped, but nothing could be kept: .*--resume auto"):
        kept.go()
    assert not rescued(tmp_path)


def test_a_full_disk_is_no_reason_to_write_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(NotKept, match="stopped, but nothing could be kept"):
        refused(tmp_path, stop_at=3).go()
    assert not [*(tmp_path / "tmp").iterdir()]


def test_a_record_that_goes_in_the_last_step(tmp_path: Path) -> None:
    """Its parameters are written, though the record is not; and that is said."""
    kept = Kept(tmp_path, (2, 3), flushes=False)
    real = kept.keeper.between_steps

    def between_steps(p: Any) -> None:
        kept.gone = "the record was removed" if p.t == 5 else ""
        real(p)

    kept.keeper.between_steps = between_steps  # type: ignore[method-assign]
    with pytest.raises(Gone, match=r"its parameters are in .*/checkpoints, but the record was rem"):
        kept.go()
    assert kept.checkpoints.saved == [(5, 5)]


def test_a_record_that_is_not_written_keeps_no_place_either(tmp_path: Path) -> None:
    """A resumed run continues after what was recorded."""
    kept = Kept(tmp_path, (2, 3), flushes=False)
    with pytest.raises(NotKept, match="the run is complete, but not all of it is on disk"):
        kept.go()
    assert kept.checkpoints.saved == []


def test_before_the_first_step_there_is_nothing_to_keep(tmp_path: Path) -> None:
    kept, said = Kept(tmp_path, (2, 3)), list[str]()
    kept.keeper.at_the_end = lambda: said.append("end")
    with pytest.raises(Ended, match=str(STOPPED)):
        kept.keeper.leave()
    assert said == ["end"] and kept.closed == [] and kept.checkpoints.saved == []


def stuck(kept: Kept, who: str = "SIGUSR2", status: int = STOPPED) -> int:
    """Ask for an end in the middle of step 4; the exit status."""
    real, said = kept.keeper.between_steps, list[str]()

    def between_steps(p: Any) -> None:
        real(p)
        if p.t == 3:
            kept.stopping.asked, kept.stopping.status = who, status
            kept.keeper.leave()

    kept.keeper.between_steps = between_steps  # type: ignore[method-assign]
    kept.keeper.at_the_end = lambda: said.append("end")
    with pytest.raises(Ended) as ended:
        kept.go()
    assert said == ["end"] and len(kept.closed) == 1
    kept.keeper.leave()  # nothing any more
    assert said == ["end"]
    return int(str(ended.value))


def test_a_thread_keeps_what_there_is_while_the_loop_is_stuck(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, (1, 1, 3), dt=1.0)
    assert stuck(kept) == STOPPED
    assert kept.checkpoints.saved[0] == (2, 2) and kept.closed == ["stopped 8.0"]
    assert capfd.readouterr().err == (
        f"stopped on SIGUSR2 in the step after 3: resume with {LINE.format(out=tmp_path)}\n"
    )


def test_after_a_failed_exchange_the_loop_alone_ends_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, (1, 1, 3), stop_at=-1, dt=1.0)
    real = kept.keeper.between_steps

    def between_steps(p: Any) -> None:
        real(p)
        if p.t == 3:
            kept.keeper.give_up("rank 1 is not there any more")

    kept.keeper.between_steps = between_steps  # type: ignore[method-assign]
    with pytest.raises(Ended, match=str(HUNG)):
        kept.go()
    assert capfd.readouterr().err.startswith("rank 1 is not there any more\nstopped on a failed ex")
    assert kept.checkpoints.saved[0] == (2, 2) and len(kept.closed) == 1
    kept.keeper.leave()  # the thread that watches finds out later, and does nothing
    assert len(kept.closed) == 1


def test_a_rank_that_is_alone_waits_for_nobody(tmp_path: Path, monkeypatch: Any) -> None:
    kept, pauses = Kept(tmp_path, (2, 3), stop_at=3), list[float]()
    monkeypatch.setattr(last_writes.time, "sleep", pauses.append)
    with pytest.raises(Stopped):
        kept.go()
    assert pauses == []
    kept.keeper.leave()  # the thread finds the loop at it
    assert len(kept.closed) == 1


def test_the_status_says_whether_anything_was_kept(tmp_path: Path, monkeypatch: Any) -> None:
    assert stuck(refused(tmp_path)) == 1
    assert stuck(refused(tmp_path), "it is gone", GONE) == GONE
    assert len(rescued(tmp_path)) == 1
    monkeypatch.setattr(Refused, "everywhere", True)
    assert stuck(refused(tmp_path), "it is gone", GONE) == GONE


def test_the_newest_place_behind_each_exchange_is_written_the_newest_exchange_first() -> None:
    places = [
        RankCheckpoint(after, t, {})
        for after, t in [(5, 9), (2, 4), (5, 7), (2, 3), (9, 9), (0, 2)]
    ]
    found = [(one.after, one.t) for one in last_writes.newest_of_each(places)]
    assert found == [(9, 9), (5, 9), (2, 4), (0, 2)]


class Fellows:
    """The other ranks' shards, as this rank looks for them; each look and pause takes time."""

    def __init__(self, kept: Kept, monkeypatch: Any, there_at: float, n: int = 2) -> None:
        self.kept, self.there_at, self.looks, self.pauses = kept, there_at, list[float](), []
        kept.run.world.n = n
        monkeypatch.setattr(kept.checkpoints, "is_whole", self.is_whole)
        monkeypatch.setattr(last_writes.time, "sleep", self.sleep)
        self.began = kept.now

    def is_whole(self, after: int, since_ns: int) -> bool:
        self.looks.append(self.kept.now - self.began)
        return self.kept.now - self.began >= self.there_at

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.kept.now += seconds


@pytest.mark.parametrize(
    ("there_at", "asked", "kept_s", "written"),
    [
        (0.0, "SIGUSR2", 0.3, 1),  # all is there: only for the others to see it
        (0.5, "SIGUSR2", 0.8, 1),
        (1.4, "SIGUSR2", 1.7, 1),  # within the patience of a shard
        (1.7, "SIGUSR2", 2.0, 2),  # an older exchange's is written too
        (5.0, "SIGUSR2", 5.3, 3),
        (99.0, "SIGUSR2", 8.3, 3),  # it is gone: not waited for
        (5.0, "SIGTERM", 5.3, 3),  # at once all there is, then wait
        (0.5, "SIGTERM", 0.8, 3),  # though the first would have been enough
    ],
)
def test_how_long_the_others_shards_are_waited_for(
    tmp_path: Path, monkeypatch: Any, there_at: float, asked: str, kept_s: float, written: int
) -> None:
    kept = Kept(tmp_path, (1, 1, 1, 9), dt=1.0, stop_at=3, asked=asked)
    real = kept.keeper._keep_and_wait
    began = list[Fellows]()

    def keep_and_wait(live: list[RankCheckpoint]) -> bool:
        began.append(Fellows(kept, monkeypatch, there_at))
        return real(live)

    kept.keeper._keep_and_wait = keep_and_wait  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        kept.go()
    assert kept.now - began[0].began == pytest.approx(kept_s, abs=0.05)
    assert len(kept.checkpoints.saved) == written
    assert began[0].pauses[-1] == last_writes.TOGETHER_S


@pytest.mark.parametrize(("n", "pause_s"), [(2, 0.01), (64, 0.05)])
def test_many_ranks_ask_the_file_system_less_often(
    tmp_path: Path, monkeypatch: Any, n: int, pause_s: float
) -> None:
    kept = Kept(tmp_path, (1, 1, 9), dt=1.0, stop_at=2)
    fellows = Fellows(kept, monkeypatch, there_at=1.0)
    monkeypatch.setattr(kept.run.world, "n", n)
    kept.now = fellows.began
    kept.keeper._last._until = fellows.began + 9.0
    assert kept.keeper._last.wait([2])
    assert {*fellows.pauses[:-1]} == {pause_s} and fellows.looks[-1] >= 1.0


def test_where_the_newest_place_cannot_be_written_an_older_one_is(
    tmp_path: Path, monkeypatch: Any
) -> None:
    kept = Kept(tmp_path, (1, 1, 3), dt=1.0, stop_at=3)
    real = kept.checkpoints.save

    def save(place: RankCheckpoint) -> Path:
        if place.after == 2:
            raise OSError("no space")
        return real(place)

    monkeypatch.setattr(kept.checkpoints, "save", save)
    with pytest.raises(Stopped):
        kept.go()
    assert kept.checkpoints.saved == [(1, 1)]
