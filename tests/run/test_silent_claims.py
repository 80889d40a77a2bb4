"""A claim that no lock of this host reaches: watched, waited for, and taken once it is silent."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from holder import Holder, left_by

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease, run_lock
from hpc_localsgd.run.run_lock import RunLock


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "WATCHED_FOR_S", 1.5)
    monkeypatch.setattr(run_lock, "HELD_FOR_S", 0.0)
    monkeypatch.setattr(run_lock, "SETTLED_S", 0.2)


@pytest.mark.usefixtures("hurried")
def test_a_run_that_a_lock_does_not_reach_is_watched_and_its_dates_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = left_by(tmp_path, 7, reach="another kernel")
    RunLock(tmp_path).end()  # it is silent
    left_by(tmp_path, 7, reach="another kernel")
    claim, pause = lease.read(file)[1], run_lock.time.sleep

    def renewed(seconds: float) -> None:
        with file.open("rb+") as open_file:
            claim.renewed().write(open_file.fileno())
        os.utime(file, (1, 1))  # as a cache of attributes would show it
        pause(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", renewed)
    os.utime(file, (1, 1))
    with pytest.raises(ConfigurationError, match="process 7 on node-12"):
        RunLock(tmp_path)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("ended", [False, True])
def test_of_two_that_take_the_place_of_a_silent_run_one_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Where no lock reaches the other: it looked at the same moment, and was a little later."""
    left_by(tmp_path, 7, reach="another kernel")
    settle, descriptors = RunLock._settle, []

    def overtaken(self: RunLock, descriptor: int) -> None:
        descriptors.append(descriptor)
        (tmp_path / "RUNNING").unlink()
        if not ended:
            left_by(tmp_path, 8, reach="another kernel", run="f" * 16)
        settle(self, descriptor)

    monkeypatch.setattr(RunLock, "_settle", overtaken)
    with pytest.raises(ConfigurationError, match="a run is in progress") as refused:
        RunLock(tmp_path)
    assert ended or "process 8 on node-12" in str(refused.value)
    assert ended or lease.read(tmp_path / "RUNNING")[1].process == 8
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


@pytest.mark.usefixtures("hurried")
def test_a_lock_that_a_silent_host_holds_is_waited_for_not_broken(
    tmp_path: Path, other: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "WATCHED_FOR_S", 0.0)
    monkeypatch.setattr(run_lock, "HELD_FOR_S", 0.3)
    assert other.take(tmp_path) == "ran"
    claim = lease.read(tmp_path / "RUNNING")[1]
    with (tmp_path / "RUNNING").open("rb+") as file:
        replace(claim, reach="another kernel").write(file.fileno())
    with pytest.raises(ConfigurationError, match=f"process {other.pid} on"):
        RunLock(tmp_path)


@pytest.mark.usefixtures("hurried")
def test_a_lock_that_a_host_holds_which_died_is_waited_for(
    tmp_path: Path, other: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.take(tmp_path) == "ran"
    claim, pause = lease.read(tmp_path / "RUNNING")[1], run_lock.time.sleep
    with (tmp_path / "RUNNING").open("rb+") as file:
        replace(claim, reach="another kernel").write(file.fileno())

    def the_server_notices(seconds: float) -> None:
        other.kill()
        pause(seconds)

    monkeypatch.setattr(run_lock, "HELD_FOR_S", 60.0)
    monkeypatch.setattr(run_lock.time, "sleep", the_server_notices)
    RunLock(tmp_path).end()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("hurried")
def test_where_there_are_no_locks_a_silent_claim_of_this_host_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "lock", lambda descriptor: None)
    left_by(tmp_path, 7)
    RunLock(tmp_path).end()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("hurried")
def test_a_claim_that_cannot_be_read_and_is_locked_is_somebodys(
    tmp_path: Path, other: Holder
) -> None:
    assert other.take(tmp_path) == "ran"
    (tmp_path / "RUNNING").write_text("nonsense")
    with pytest.raises(ConfigurationError, match=f"a run is in progress in {tmp_path}"):
        RunLock(tmp_path)


def test_a_file_that_is_still_empty_may_be_one_that_is_just_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "RUNNING").touch()
    pause = run_lock.time.sleep

    def written(seconds: float) -> None:
        left_by(tmp_path, 7, reach="another kernel", run=os.urandom(8).hex())
        pause(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", written)
    with pytest.raises(ConfigurationError, match="process 7 on node-12"):
        RunLock(tmp_path)


def test_who_has_once_removed_a_silent_claim_looks_again_however_it_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another was faster, and has ended: a third may still have seen the silent one."""
    make, settled = RunLock._make, []
    makes, clears = iter([False, False, True]), iter([True, False])
    monkeypatch.setattr(RunLock, "_make", lambda self: make(self) if next(makes) else None)
    monkeypatch.setattr(RunLock, "_clear_the_way", lambda self: next(clears))
    monkeypatch.setattr(RunLock, "_settle", lambda self, descriptor: settled.append(descriptor))
    here = RunLock(tmp_path)
    assert settled == [here._descriptor]
    here.end()


def test_a_claim_that_came_while_a_silent_one_was_watched_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by(tmp_path, 7, reach="another kernel")
    watched = []

    def overtaken(self: RunLock, before: bytes, descriptor: int, ours: bool) -> None:
        watched.append(before)
        if len(watched) > 1:
            self._refuse()
        self.file.unlink()
        left_by(tmp_path, 8, reach="another kernel", run="f" * 16)

    monkeypatch.setattr(run_lock, "SETTLED_S", 0.0)
    monkeypatch.setattr(RunLock, "_watch", overtaken)
    with pytest.raises(ConfigurationError, match="process 8 on node-12"):
        RunLock(tmp_path)


@pytest.mark.usefixtures("hurried")
def test_a_claim_that_is_torn_is_watched_where_no_lock_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pause = tmp_path / "RUNNING", run_lock.time.sleep
    file.write_text('{"host": "node-12", "proc')

    def rewritten(seconds: float) -> None:
        left_by(tmp_path, 7, reach="another kernel")
        pause(seconds)

    monkeypatch.setattr(lease, "lock", lambda descriptor: None)
    monkeypatch.setattr(run_lock.time, "sleep", rewritten)
    with pytest.raises(ConfigurationError, match="process 7 on node-12"):
        RunLock(tmp_path)
