"""What becomes of jobs that fail, hang or reach their limit, in a real Slurm.

The last of this folder: these jobs have run beside all others.
"""

from __future__ import annotations

from pathlib import Path

from waiting_jobs import AT, Waiting

from hpc_localsgd.trajectory import Trajectory


def test_a_job_that_always_fails_gives_up(waiting: dict[str, Waiting]) -> None:
    said, job = waiting["fails"].failed(), waiting["fails"].job
    assert job.cluster.state(job.number) == ("FAILED", 1), said
    assert "failed 2 times without progress: giving up" in said


def test_a_job_that_hangs_at_the_same_step_each_time_gives_up(waiting: dict[str, Waiting]) -> None:
    """Though each time it gets to that step, hangs there, and writes shards before it ends."""
    said, job = waiting["hangs"].failed(), waiting["hangs"].job
    began = [t0(path) for path in Trajectory(job.out).paths]
    assert job.cluster.state(job.number)[1] == 1, (began, said)
    assert began == [0, AT, AT], (began, said)
    assert said.count("the job hangs") == 2, said
    assert "failed 2 times without progress: giving up" in said


def test_the_time_limit_of_slurm_stops_a_job(waiting: dict[str, Waiting]) -> None:
    """The real thing: a limit of some minutes, and the signal one minute before it."""
    waiting["limited"].over.result()
    job = waiting["limited"].job
    said = job.said.read_text()
    assert "stopped on request; back into the queue" in said, said[-3000:]
    assert any((job.out / "checkpoints").glob("step-*"))


def t0(path: Path) -> int:
    """The step at which a segment begins."""
    return int(Trajectory(path, segments=False).attrs["t0"])
