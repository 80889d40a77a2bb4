"""A job asked to stop, wherever its ranks are, is gone within 10 s and goes on bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TRAIN, Job, gloo, horovodrun, mpirun, started, until

from hpc_localsgd.checkpoint import shard
from hpc_localsgd.checkpoint.folder import last_complete, number
from hpc_localsgd.faults import STOPPED
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

STEPS = 1200
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4"]
RUN += [f"--steps={STEPS}", "--evaluate-every=100", "--figures=false", "--resume=auto"]
SHORT = ["--schedule=post_local", "--schedule.switch=100", "--schedule.every=8"]
LONG = ["--schedule=every", "--schedule.steps=1100", "--evaluate-every=5000"]
SINGLE = ["--schedule=every", "--schedule.steps=1"]
WRITTEN_WITHIN_S = 10


@pytest.fixture(autouse=True)
def the_slow_task_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def arguments(out: Path, *options: str) -> list[str]:
    return [*TRAIN, *RUN, *options, f"--out={out}"]


def final(out: Path) -> torch.Tensor:
    """The parameters [K, P] a finished run left behind."""
    found = last_complete(out)
    assert found is not None and number(found[0]) == STEPS
    return torch.cat([shard.read(p)["x"] for p in sorted(found[0].glob("*.pt"))])


def finish(launcher: Sequence[str], out: Path, *options: str) -> torch.Tensor:
    """Go on to the end."""
    with started(launcher, arguments(out, *options)) as job:
        job.wait().succeeded()
    return final(out)


def whole(out: Path, *options: str, world: str = "mpi") -> torch.Tensor:
    """The parameters of the run that nobody stopped."""
    return finish(mpirun(2), out, f"--world={world}", *options)


def trains(job: Job, out: Path) -> bool:
    """Whether both ranks have been at it for a while."""
    assert job.process.poll() is None, job.wait().text[-2000:]
    return len(job.ranks()) == 2 and (out / "trajectory.h5").exists()


def stop(
    launcher: Sequence[str], out: Path, *options: str, wait_s: float = 1.0, by: str = "SIGUSR2"
) -> int:
    """Start a run, ask it to stop after a while, and see that it ends in time; its status."""
    with started(launcher, arguments(out, *options)) as job:
        until(lambda: trains(job, out), 90, "both ranks train")
        time.sleep(wait_s)
        asked = time.time()
        if by == "STOP":
            (out / "STOP").touch()
        else:
            job.process.send_signal(getattr(signal, by))
        status = job.wait(60).status
        found = last_complete(out)
        assert found is not None, job.wait().text[-3000:]
        written = [path.stat().st_mtime for path in found[0].glob("*.pt")]
        until(lambda: not job.pids(), 10, "every process is gone")
    assert max(written) - asked < WRITTEN_WITHIN_S
    assert min(written) > asked - 1e-3, "an older checkpoint is all there is"
    return status


def same_record(one: Path, other: Path) -> None:
    """No row of an interrupted run is lost or there twice, and all numbers are the same."""
    a, b = Trajectory(one), Trajectory(other)
    for name in ("step_begin", "step_end", "lr", "payload_bytes"):
        np.testing.assert_array_equal(getattr(a.rounds, name), getattr(b.rounds, name))
    assert a.names() == b.names()
    for name in a.names():
        np.testing.assert_array_equal(a.series(name).step, b.series(name).step)
        np.testing.assert_array_equal(a.series(name).value, b.series(name).value)


@pytest.mark.parametrize(
    ("options", "world", "by"),
    [
        (LONG, "mpi", "SIGUSR2"),
        (SHORT, "horovod", "SIGUSR1"),
        (SINGLE, "mpi", "SIGUSR2"),
        ([*SHORT, "--algorithm=gossip", "--optimizer=AdamW"], "mpi", "SIGTERM"),
        ([*SHORT, "--algorithm=overlap"], "mpi", "SIGUSR2"),
    ],
    ids=["long round", "short rounds, Horovod", "every step", "gossip, SIGTERM", "overlap"],
)
def test_stopped_and_resumed_is_the_same_run(
    tmp_path: Path, options: list[str], world: str, by: str
) -> None:
    x = whole(tmp_path / "whole", *options, world=world)
    out, options = tmp_path / "cut", [*options, f"--world={world}"]
    status = stop(mpirun(2), out, *options, by=by)
    assert status == STOPPED or by == "SIGTERM"  # mpirun's own status then
    assert torch.equal(finish(mpirun(2), out, *options), x)
    same_record(tmp_path / "whole", out)


@pytest.mark.parametrize("world", ["mpi", "horovod"])
@pytest.mark.parametrize("options", [LONG, SINGLE], ids=["long round", "every step"])
def test_a_rank_that_waits_in_an_exchange_and_one_in_a_long_step_write_their_shards(
    tmp_path: Path, options: list[str], world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*options, "--task.late=1", "--task.at=300"]
    x = whole(tmp_path / "whole", *options, world=world)
    out, options = tmp_path / "cut", [*options, f"--world={world}"]
    with monkeypatch.context() as patch:
        patch.setenv("LATE_S", "60")
        assert stop(mpirun(2), out, *options, wait_s=8.0) == STOPPED
    at = [shard.read(p)["place"]["t"] for p in sorted(last_complete(out)[0].glob("*.pt"))]
    assert 0 < at[1] <= 300 and at[0] >= at[1]  # neither was at the end of a step
    assert torch.equal(finish(mpirun(2), out, *options), x)


@pytest.mark.parametrize("launcher", [horovodrun, gloo], ids=["horovodrun", "horovodrun --gloo"])
def test_where_no_signal_arrives_a_file_stops_the_run(
    tmp_path: Path, launcher: Callable[[int], list[str]]
) -> None:
    status = stop(launcher(2), tmp_path, *SHORT, by="STOP")
    assert status != 0  # horovodrun has statuses of its own
    finish(launcher(2), tmp_path, *SHORT)
    assert Trajectory(tmp_path).rounds.step_end[-1] == STEPS
    assert len(Trajectory(tmp_path).paths) == 2


def flushed(out: Path) -> int:
    try:
        ends = Trajectory(out).rounds.step_end
    except TrajectoryError:
        return 0
    return int(ends[-1]) if len(ends) else 0


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    """SIGKILL or SIGUSR2 to a random rank at random; benchmarks/hundred_kills.py does more."""
    draw = random.Random(7)
    options = [*SHORT, "--world=mpi", "--checkpoint-every=0.3 s"]
    x = whole(tmp_path / "whole", *options)
    out = tmp_path / "killed"
    for _ in range(10):
        with started(mpirun(2), arguments(out, *options)) as job:
            until(lambda job=job: job.ranks() or job.process.poll() is not None, 60, "ranks")
            time.sleep(draw.uniform(0.5, 5.0))
            before = flushed(out)
            if pid := job.ranks().get(draw.randrange(2)):
                with_ = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGUSR2])
                try:
                    os.kill(pid, with_)
                except ProcessLookupError:
                    pass
            job.wait(30)
            until(lambda job=job: not job.pids(), 10, "no orphans")
        assert flushed(out) >= before
    assert torch.equal(finish(mpirun(2), out, *options), x)
    same_record(tmp_path / "whole", out)
