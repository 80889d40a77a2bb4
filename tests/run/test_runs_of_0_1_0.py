"""Two runs that version 0.1.0 stopped are read, reported and gone on with.

`measured` stopped within a round whose length followed the spread of the workers, `parallel` while
all rounds had length 1: what a shard says of both has another form today.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.commands.assembly.job import Job, make_job
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.loop import train
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

ARCHIVE = Path(__file__).with_name("runs_of_0_1_0.tar.xz")


@pytest.fixture
def kept(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a run as version 0.1.0 left it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / str(request.param)


def job_of(kept: Path, out: Path, *options: str) -> Job:
    resolved = parse(["--config", str(kept / "config.yaml"), f"--out={out}", *options])
    return make_job(resolved, Simulated(2), lambda t, values: None)


def finished(job: Job) -> Trajectory:
    job.start()
    train(job.run, job.position, job.record, job.keep)
    job.close("complete")
    return Trajectory(job.out)


@pytest.mark.parametrize(
    ("kept", "begin", "t", "end"),
    [("measured", 48, 50, 51), ("parallel", 40, 41, 41)],
    indirect=["kept"],
)
def test_a_run_of_0_1_0_goes_on_as_if_it_had_never_stopped(
    kept: Path, begin: int, t: int, end: int, tmp_path: Path
) -> None:
    assert len(Trajectory(kept).rounds.step_end) > 20
    whole = job_of(kept, tmp_path / "whole")
    expected = finished(whole)
    job = job_of(kept, kept, "--resume")
    p = job.position
    assert (p.begin, p.t, p.end, p.parallel) == (begin, t, end, kept.name == "parallel")
    assert p.schedule.observed() == ({"H": 3} if kept.name == "measured" else {})
    found = finished(job)
    assert len(set(np.diff(expected.rounds.step_end))) > 1
    np.testing.assert_array_equal(found.rounds.step_end, expected.rounds.step_end)
    # Not bit for bit: the archive was written on one machine, and is read on any.
    x, y = job.run.task.x.numpy(), whole.run.task.x.numpy()
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", ["measured"], indirect=True)
def test_a_run_of_0_1_0_is_reported(kept: Path) -> None:
    assert report([str(kept)]) == 0
    page = (kept / "report" / "report.html").read_text()
    assert "spread_triggered(target=0.01, at_least=1, at_most=16)" in page
