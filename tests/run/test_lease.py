"""The file that claims a folder: made, renewed, read and locked, on file servers of every kind."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from holder import Holder, left_by

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease, run_lock
from hpc_localsgd.run.run_lock import RunLock


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
