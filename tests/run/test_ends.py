"""How a run ends that somebody interrupts, or whose folder or record goes away meanwhile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import TRAIN, Job, Outcome, alone, run, started, until

from hpc_localsgd.commands.exit_codes import GONE, STOPPED
from hpc_localsgd.run import stopping
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.run.stopping import INTERRUPTED, StopListener
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

pytestmark = pytest.mark.usefixtures("nothing_runs_on")

SLOW = ["--task=slow_digits.slow_digits", "--task.hidden=4", "--task.step-s=0.01", "--workers=2"]
SLOW += ["--steps=100000", "--figures=false", "--evaluate-every=100000"]


@pytest.fixture(autouse=True)
def the_slow_task_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "mpi"))


def trains(job: Job, out: Path) -> bool:
    assert job.process.poll() is None, job.wait().text[-2000:]
    return re.search(r"step +0/", job.stdout.read_text()) is not None


def disturbed(out: Path, what: Callable[[Job], object], *options: str) -> Outcome:
    """A run that trains, to which something is done."""
    with started(alone, [*TRAIN, *SLOW, *options, f"--out={out}"]) as job:
        until(lambda: trains(job, out), 60, "it trains")
        what(job)
        outcome = job.wait(40)
    assert "Traceback" not in outcome.text, outcome.text
    return outcome


def test_ctrl_c_keeps_a_checkpoint_and_says_what_to_type(tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = disturbed(out, lambda job: os.kill(job.process.pid, signal.SIGINT))
    assert outcome.status == STOPPED
    assert re.search(r"stopped on Ctrl-C (after step|in the step after) \d+", outcome.stderr)
    assert last_complete(out) is not None and not (out / "RUNNING").exists()
    line = re.search(r"resume with python (-m hpc_localsgd.train .*)", outcome.stderr)
    assert line is not None, outcome.stderr
    given = [*shlex.split(line.group(1)), "--trust=slow_digits", "--seed=5"]
    again = run(alone, given)
    assert again.status == 2 and "these differ: --seed 5" in again.stderr, again.stderr


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr(stopping, "end", ends.append)
    asked = StopListener()
    asked._hear(bytes([signal.SIGINT, signal.SIGINT]))  # as launchers hand it on
    assert asked.asked == "Ctrl-C" and asked.status == STOPPED and not ends
    asked.asked_s -= stopping.AGAIN_S
    asked._hear(bytes([signal.SIGINT]))
    assert ends == [INTERRUPTED]


def test_a_second_ctrl_c_is_heard_while_the_first_is_being_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(stopping, "end", ends.append)
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.0)
    monkeypatch.setattr(stopping, "AGAIN_S", 0.0)
    with StopListener() as asked:
        asked.attend(lambda: None, lambda: time.sleep(5.0))  # a slow disk
        signal.raise_signal(signal.SIGINT)
        until(lambda: asked._left, 5, "the first is being done")
        signal.raise_signal(signal.SIGINT)
        until(lambda: ends, 3, "the second is heard")
    assert ends == [INTERRUPTED]


@pytest.mark.parametrize("how", ["moved", "record removed", "record cut short"])
def test_a_folder_or_record_that_goes_away_is_said_and_the_parameters_are_kept(
    tmp_path: Path, how: str
) -> None:
    out = tmp_path / "run"
    record = out / "trajectory.h5"

    def what(job: Job) -> None:
        if how == "moved":
            out.rename(tmp_path / "elsewhere")
        elif how == "record removed":
            record.unlink()
        else:
            os.truncate(record, 100)

    often = [] if how == "moved" else ["--checkpoint-every=0.2 s"]  # flushes before each
    outcome = disturbed(out, what, *often)
    assert outcome.status == GONE, outcome.text[-2000:]
    said = " is gone" if how == "moved" else str(record)
    assert (
        said in outcome.stderr
        and "resume with python -m hpc_localsgd.train --config" in outcome.stderr
    )
    where = re.search(r"The parameters are in (\S+):", outcome.stderr)
    assert where is not None and list(Path(where.group(1)).glob("step-*/rank-0-of-1.pt"))


def test_where_nothing_can_be_written_the_parameters_go_to_the_hosts_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, temporary = tmp_path / "up" / "run", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def what(job: Job) -> None:
        shutil.rmtree(out.parent)
        out.parent.write_text("in its place")

    outcome = disturbed(out, what)
    assert outcome.status == GONE and f"The parameters are in {temporary}" in outcome.stderr
    assert list(temporary.glob("run-*/checkpoints/step-*/rank-0-of-1.pt"))


def test_a_record_that_cannot_be_read_at_the_end_is_no_reason_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Trajectory.__init__

    def spoilt(self: Trajectory, path: Path, **named: object) -> None:
        (tmp_path / "trajectory.h5").write_bytes(b"nonsense" * 1000)
        real(self, path, **named)

    monkeypatch.setattr(Trajectory, "__init__", spoilt)
    options = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]
    assert main([*options, f"--out={tmp_path}"]) == GONE
    assert "its record cannot be read" in capsys.readouterr().err
