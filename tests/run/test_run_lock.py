"""Two jobs in one folder: the second is refused, and a run that is gone stands in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from holder import Holder, holders, left_by, race

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import run_lock
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.run.stopping import before_end
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

TINY = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]


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
