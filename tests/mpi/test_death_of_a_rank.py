"""A rank is killed in mid-run: the job ends promptly, and its record can be read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from launching import TRAIN, Job, gloo, horovodrun, mpirun, patient, started, until

from hpc_localsgd.trajectory import Trajectory, TrajectoryError

GONE_WITHIN_S = 30
# An endless run. Its record is flushed with every checkpoint, so that there is something to read.
ENDLESS = ["--task=slow_digits.slow_digits", "--steps=10000000", "--task.hidden=8"]
ENDLESS += ["--schedule.switch=0", "--schedule.every=8"]
ENDLESS += ["--batch-per-worker=4", "--checkpoint-every=50", "--evaluate-every=1000000"]


def flushed_steps(out: Path) -> int:
    """How far the record on the disk goes; 0 while there is none, or a flush is in progress."""
    try:
        ends = Trajectory(out).rounds.step_end
    except (TrajectoryError, OSError):
        return 0
    return int(ends[-1]) if len(ends) else 0


def is_training(job: Job, out: Path, n: int) -> bool:
    if job.process.poll() is not None:
        job.wait().succeeded()
        pytest.fail("the run has ended by itself")
    return set(job.ranks()) == set(range(n)) and flushed_steps(out) > 100


@pytest.mark.parametrize(
    ("launcher", "world", "victim"),
    [
        (lambda: mpirun(2), "mpi", 1),
        (lambda: horovodrun(2), "horovod", 1),
        (lambda: gloo(2), "horovod", 0),
    ],
    ids=["mpirun", "horovodrun", "horovodrun --gloo"],
)
def test_when_a_rank_dies_the_job_is_gone_within_30_s_and_the_record_opens(
    launcher: Callable[[], list[str]],
    world: str,
    victim: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the slow task is
    arguments = [*TRAIN, *ENDLESS, f"--world={world}", f"--out={tmp_path}"]
    with started(launcher(), arguments) as job:
        until(lambda: is_training(job, tmp_path, 2), 90, "both ranks train and have recorded")
        before = flushed_steps(tmp_path)
        killed_at = time.monotonic()
        os.kill(job.ranks()[victim], signal.SIGKILL)
        until(lambda: not job.pids(), GONE_WITHIN_S, "every process of the job is gone")
        assert time.monotonic() - killed_at < patient(GONE_WITHIN_S)
        assert job.process.wait() != 0
        said = job.stderr.read_text()
    of_ranks = [line for line in said.splitlines() if "<stderr>:" in line]
    assert not any("Traceback" in line for line in of_ranks), said
    if "--gloo" in launcher():  # nobody but the rank that is left knows
        assert said.count("rank 1 on") == said.count("does not reach the others") == 1, said
        assert f"resume with python -m hpc_localsgd.train --config {tmp_path}" in said
    record = Trajectory(tmp_path)
    # Launchers end the other ranks by SIGTERM first: if rank 0 is among them it closes its record.
    assert record.status in ({"running"} if victim == 0 else {"running", "stopped"})
    ends = record.rounds.step_end
    assert ends[-1] >= before > 0
    np.testing.assert_array_equal(ends, np.arange(8, ends[-1] + 1, 8))
    assert np.isfinite(record.series("train/loss").value).all()
    assert list((tmp_path / "checkpoints").glob("step-*"))
