"""Two jobs in one folder: the second is refused, and a run that is gone stands in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from holder import Holder, holders, left_by, race

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease, run_lock
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.run.stopping import before_end
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

TINY = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]


@pytest.fixture
def other() -> Iterator[Holder]:
    with holders([]) as (made,):
        yield made


def test_a_run_that_is_going_on_is_left_alone(
    tmp_path: Path, other: Holder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, f"--out={tmp_path}"]) == 0
    assert not list(tmp_path.glob("*RUNNING*"))
    assert other.take(tmp_path) == "ran"
    (tmp_path / "STOP").touch()
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    for more in ("--overwrite", "--resume=auto", "--overwrite"):
        assert main([*TINY, more, f"--out={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert (
            f"a run is in progress in {tmp_path} (process {other.pid} on" in said
            and "STOP`" in said
        )
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    assert Trajectory(tmp_path).status == "complete"


def test_of_two_that_start_at_once_one_runs_and_the_other_says_who(tmp_path: Path) -> None:
    outs = [tmp_path / str(i) for i in range(20)]
    for out in outs[::2]:  # over what a killed run left
        out.mkdir()
        left_by(out, 7)
    with holders([], []) as both:
        race(both, outs)


def test_who_is_gone_stands_in_nobodys_way(tmp_path: Path, other: Holder) -> None:
    RunLock(tmp_path / "in" / "a" / "folder").end()
    RunLock(tmp_path)  # of a job in this process that was never ended
    RunLock(tmp_path).end()
    left_by(tmp_path, os.getpid())  # the number of a living process, in another container perhaps
    RunLock(tmp_path).end()
    values = {"host": "a", "process": 1, "run": [1], "reach": "", "beat": 0}
    for nonsense in ("", "[1]", "{}", '{"host": 1, "process": "x"}', json.dumps(values)):
        (tmp_path / "RUNNING").write_text(nonsense)
        RunLock(tmp_path).end()
    assert other.take(tmp_path) == "ran"
    other.kill(reap=False)
    until_dead(other.pid)
    assert Path(f"/proc/{other.pid}").exists()  # a zombie
    RunLock(tmp_path).end()


def until_dead(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


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


def test_whoever_is_just_giving_the_folder_back_is_no_run_that_goes_on(
    tmp_path: Path, other: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.take(tmp_path) == "ran"
    pause = run_lock.time.sleep

    def ends(seconds: float) -> None:
        other.begin()
        other.said()
        pause(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", ends)
    RunLock(tmp_path).end()


def test_a_claim_that_could_not_be_removed_at_the_end_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunLock(tmp_path)
    with monkeypatch.context() as patch:

        def refused(*words: object, **more: object) -> None:
            raise OSError(errno.EROFS, "no")

        patch.setattr(Path, "unlink", refused)
        here.end()
    assert here.file.exists()
    RunLock(tmp_path).end()
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_at_once_gives_the_folder_back(tmp_path: Path) -> None:
    here = RunLock(tmp_path)
    assert here.end in before_end
    here.end()
    assert here.end not in before_end


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


def test_a_link_that_was_made_though_the_server_says_it_was_there_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def asked_twice(*paths: Path) -> None:
        link(*paths)
        raise FileExistsError

    monkeypatch.setattr(run_lock.os, "link", asked_twice)
    here = RunLock(tmp_path)
    assert lease.read(here.file)[1].run == here.run
    here.end()


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


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(run_lock.os, "link", refused)


@pytest.mark.usefixtures("without_links")
@pytest.mark.parametrize("removed", [False, True])
def test_without_hard_links_a_file_that_another_locks_first_is_not_held(
    tmp_path: Path, other: Holder, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """It looked at the moment at which the file was made, and may take it for one left behind."""
    lock, file, calls = lease.lock, tmp_path / "RUNNING", []

    def late(descriptor: int) -> bool | None:
        if not lease.is_at(file, descriptor) or len(calls) > 1:
            return lock(descriptor)
        calls.append(descriptor)
        if removed and len(calls) == 2:
            file.unlink()
        return False if not removed or len(calls) == 1 else lock(descriptor)

    monkeypatch.setattr(lease, "lock", late)
    here = RunLock(tmp_path)
    assert lease.is_at(file, here._descriptor) and len(calls) == 2
    assert f"process {os.getpid()} on" in other.take(tmp_path)
    here.end()


@pytest.mark.usefixtures("without_links")
def test_without_hard_links_and_locks_it_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "lock", lambda descriptor: None)
    monkeypatch.setattr(run_lock, "WATCHED_FOR_S", 3.0)
    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.0)
    first = RunLock(tmp_path)
    run_lock._ours.clear()  # as if it were of another process
    done = threading.Event()

    def live() -> None:
        while not done.wait(0.2):
            first.renew()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path)
    finally:
        done.set()
        thread.join()
        first.end()
    assert not list(tmp_path.iterdir())


def test_it_is_renewed_now_and_then_and_seen_to_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunLock(tmp_path)
    assert here.renew() and lease.read(here.file)[1].beat == 0
    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.0)
    assert here.renew() and lease.read(here.file)[1].beat == 1
    with monkeypatch.context() as patch:

        def refused(*words: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        patch.setattr(lease.os, "pwrite", refused)
        assert here.renew()  # which is said elsewhere
    here.file.unlink()
    assert here.renew()  # whoever removed it has been told
    left_by(tmp_path, 9, run="f" * 16)
    assert not here.renew()
    here.end()
    assert here.file.exists() and here.renew()  # it is another's


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


def test_a_claim_is_not_written_into_a_file_that_got_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread renews while another one ends: the descriptor stays open as long."""
    here = RunLock(tmp_path)
    ending, written = threading.Thread(target=here.end), []

    def slow(claim: lease.Lease, descriptor: int) -> None:
        ending.start()
        ending.join(0.3)  # it must wait
        written.append(lease.is_at(here.file, descriptor))

    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.0)
    monkeypatch.setattr(lease.Lease, "write", slow)
    assert here.renew()
    ending.join(20)
    assert written == [True]
    assert not list(tmp_path.iterdir()) and here._descriptor == -1


def test_a_file_server_that_hangs_keeps_no_process_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, hangs, done = RunLock(tmp_path), threading.Event(), threading.Event()
    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.0)
    monkeypatch.setattr(run_lock, "ENDED_WITHIN_S", 0.1)
    monkeypatch.setattr(lease.Lease, "write", lambda *words: (hangs.set(), done.wait(30)))
    renewing = threading.Thread(target=here.renew)
    renewing.start()
    assert hangs.wait(20)
    here.end()  # does not wait
    done.set()
    renewing.join()
    here.end()
    assert not list(tmp_path.iterdir())


def test_the_folder_is_the_runs_until_its_record_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, close = [], Recorder.close

    def closed(self: Recorder, *words: object) -> bool:
        held.append((tmp_path / "RUNNING").exists())
        return close(self, *words)

    monkeypatch.setattr(Recorder, "close", closed)
    assert main([*TINY, f"--out={tmp_path}"]) == 0
    assert held and all(held) and not (tmp_path / "RUNNING").exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.ENOSPC])
def test_a_folder_that_takes_no_claim_is_said_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*words: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lease.os, "pwrite", refused)
    with pytest.raises(ConfigurationError, match=f"cannot write to --out .*{os.strerror(number)}"):
        RunLock(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_away_is_no_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said elsewhere, with what to do; and its end is quiet."""
    here = RunLock(tmp_path / "run")
    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.0)
    shutil.rmtree(tmp_path / "run")
    assert here.renew()
    here.end()
    assert not list(tmp_path.iterdir())


def test_a_holder_that_is_frozen_still_holds(tmp_path: Path, other: Holder) -> None:
    assert other.take(tmp_path) == "ran"
    os.kill(other.pid, signal.SIGSTOP)
    with pytest.raises(ConfigurationError, match=f"process {other.pid} on"):
        RunLock(tmp_path)


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    here = RunLock(tmp_path)
    reads, writes = os.pipe()
    begun, says = os.pipe()
    child = os.fork()
    if not child:
        os.close(writes)
        os.write(says, b"!")  # what a fork brings about has been done
        os.read(reads, 1)  # until the parent is done
        os._exit(len(before_end) + len(run_lock._ours))  # which would give back the parent's
    try:
        os.read(begun, 1)
        os.close(here._descriptor)  # as its end would, and what it left stays
        run_lock._ours.clear()
        RunLock(tmp_path).end()
    finally:
        os.close(writes)
        _, status = os.waitpid(child, 0)
        for end in (reads, begun, says):
            os.close(end)
    assert status == 0


def test_a_claim_is_on_the_disk_and_read_past_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, opened, open_, sync = [], [], os.open, os.fsync
    monkeypatch.setattr(lease.os, "fsync", lambda descriptor: done.append(sync(descriptor)))
    here = RunLock(tmp_path)
    assert done
    monkeypatch.setattr(
        lease.os, "open", lambda file, flags: opened.append(flags) or open_(file, flags)
    )
    assert lease.read(here.file)[1].run == here.run
    assert opened[0] & getattr(os, "O_DIRECT", 0) == getattr(os, "O_DIRECT", 0)
    here.end()


def test_a_lock_reaches_within_a_kernel_and_a_mount(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as a, (tmp_path / "b").open("w") as b:
        here = lease.reach_of(a.fileno())
        assert here == lease.reach_of(b.fileno())
    with Path("/proc/self/status").open() as elsewhere:
        there = lease.reach_of(elsewhere.fileno())
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert here != there and here.startswith(kernel) and there.startswith(kernel)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_none_and_a_broken_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*words: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(lease.fcntl, "flock", refused)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            lease.lock(0)
    else:
        assert lease.lock(0) is None


@pytest.mark.parametrize(
    "wrong", ["--snapshot-every=20 fortnights", "--checkpoint-every=x", "--watchdog=soon"]
)
def test_a_wrong_cadence_leaves_nothing_behind(tmp_path: Path, wrong: str) -> None:
    """Or the command put right would be refused: the folder holds a run already."""
    options = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]
    assert main([*options, wrong, f"--out={tmp_path / 'run'}"]) == 2
    assert main([*options, f"--out={tmp_path / 'run'}"]) == 0


def test_a_gpu_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device=cuda", "--steps=3", f"--out={tmp_path}"]) == 2
    assert "--device cuda cannot be used here (PyTorch " in capsys.readouterr().err
