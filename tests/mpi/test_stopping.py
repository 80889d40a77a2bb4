"""A job asked to stop, wherever its ranks are, is gone within 10 s and continues bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TRAIN, Job, Outcome, gloo, horovodrun, mpirun, patient, started, until
from launching import run as launch

from hpc_localsgd.commands.exit_codes import HUNG, STOPPED
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.folder import last_complete, number
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

STEPS = 600
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4"]
RUN += [f"--steps={STEPS}", "--evaluate-every=100", "--figures=false", "--resume=auto"]
SHORT = ["--schedule=post_local", "--schedule.switch=100", "--schedule.every=8"]
LONG = ["--schedule=every", "--schedule.steps=550", "--evaluate-every=5000"]
SINGLE = ["--schedule=every", "--schedule.steps=1"]
LATE = ["--task.late=1", "--task.at=200"]
RUNS = {
    "long": [*LONG, *LATE, "--world=mpi"],
    "short": [*SHORT, "--world=mpi"],
    "gossip": [*SHORT, "--algorithm=gossip", "--optimizer=AdamW", "--world=mpi"],
    "overlap": [*SHORT, "--algorithm=overlap", "--world=mpi"],
    "horovod short": [*SHORT, "--world=horovod"],
    "horovod single": [*SINGLE, *LATE, "--world=horovod"],
}
SEVERAL = str(Path(__file__).parent / "several_runs.py")
WRITTEN_WITHIN_S = 10


@pytest.fixture(scope="module", autouse=True)
def the_slow_task_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the runs that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    outs = {name: folder / name.replace(" ", "-") for name in RUNS}
    for world in ("mpi", "horovod"):
        files = []
        for name in (name for name in RUNS if ("horovod" in name) == (world == "horovod")):
            files.append(folder / f"{outs[name].name}.options")
            files[-1].write_text("\n".join([*RUN, *RUNS[name], f"--out={outs[name]}"]))
        launch(mpirun(2), [SEVERAL, *map(str, files)], timeout_s=400).succeeded()
    return outs


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
        job.wait(300).succeeded()
    return final(out)


def trains(job: Job, out: Path) -> bool:
    """Whether both ranks have been at it for a while."""
    assert job.process.poll() is None, job.wait().text[-2000:]
    begun = "step   0/" in job.stdout.read_text()
    return begun and len(job.ranks()) == 2 and (out / "trajectory.h5").exists()


def stop(
    launcher: Sequence[str], out: Path, *options: str, wait_s: float = 1.0, by: str = "SIGUSR2"
) -> int:
    """Start a run, ask it to stop after a while, and see that it ends in time; its status."""
    with started(launcher, arguments(out, *options)) as job:
        until(lambda: trains(job, out), 200, "both ranks train")
        time.sleep(wait_s)
        asked = time.time()
        if by == "STOP":
            (out / "STOP").touch()
        else:
            job.process.send_signal(getattr(signal, by))
        outcome = job.wait(60)
        found = last_complete(out)
        assert found is not None, job.wait().text[-3000:]
        written = [path.stat().st_mtime for path in found[0].glob("*.pt")]
        until(lambda: not job.pids(), 10, "every process is gone")
    assert max(written) - asked < patient(WRITTEN_WITHIN_S)
    assert min(written) > asked - 1e-3, "an older checkpoint is all there is"
    return STOPPED if mpirun_aborted(outcome) else outcome.status


def mpirun_aborted(outcome: Outcome) -> bool:
    """Open MPI 5.0.11's mpirun sometimes fails an assertion of its own behind its ranks' end."""
    return outcome.status == -signal.SIGABRT and "prterun: pthread_mutex_lock" in outcome.stderr


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
    ("name", "by"),
    [
        ("long", "SIGUSR2"),
        ("horovod short", "SIGUSR1"),
        ("gossip", "SIGTERM"),
        ("overlap", "SIGUSR2"),
    ],
)
def test_stopped_and_resumed_is_the_same_run(
    whole: dict[str, Path], tmp_path: Path, name: str, by: str
) -> None:
    status = stop(mpirun(2), tmp_path, *RUNS[name], by=by)
    assert status == STOPPED or by == "SIGTERM"  # mpirun's own status then
    assert torch.equal(finish(mpirun(2), tmp_path, *RUNS[name]), final(whole[name]))
    same_record(whole[name], tmp_path)


@pytest.mark.parametrize("name", ["long", "horovod single"])
def test_a_rank_that_waits_in_an_exchange_and_one_in_a_long_step_write_their_shards(
    whole: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LATE_S", "60")
        assert stop(mpirun(2), tmp_path, *RUNS[name], wait_s=6.0) == STOPPED
    found = last_complete(tmp_path)
    assert found is not None
    at = [shard.read(p)["place"]["t"] for p in sorted(found[0].glob("*.pt"))]
    assert at[1] <= 200 and at[0] >= at[1]  # neither was at the end of a step
    assert torch.equal(finish(mpirun(2), tmp_path, *RUNS[name]), final(whole[name]))
    same_record(whole[name], tmp_path)


@pytest.mark.parametrize("launcher", [horovodrun, gloo], ids=["horovodrun", "horovodrun --gloo"])
def test_where_no_signal_arrives_a_file_stops_the_run(
    tmp_path: Path, launcher: Callable[[int], list[str]]
) -> None:
    slow = [*SHORT, "--task.step-s=0.01"]  # the file is looked for once a second
    status = stop(launcher(2), tmp_path, *slow, by="STOP")
    assert status != 0  # horovodrun has statuses of its own
    finish(launcher(2), tmp_path, *slow)
    assert Trajectory(tmp_path).rounds.step_end[-1] == STEPS
    assert len(Trajectory(tmp_path).paths) == 2


def test_a_frozen_rank_is_named_and_the_job_ended(tmp_path: Path) -> None:
    options = [*RUNS["short"], "--checkpoint-every=0.3 s", "--watchdog=5 s"]
    with started(mpirun(2), arguments(tmp_path, *options)) as job:
        until(lambda: trains(job, tmp_path) and last_complete(tmp_path), 200, "a checkpoint")
        os.kill(job.ranks()[1], signal.SIGSTOP)
        outcome = job.wait(120)
        until(lambda: not job.pids(), 30, "every process is gone")
    assert outcome.status == HUNG or mpirun_aborted(outcome)
    assert "no longer report: rank 1 (" in outcome.text, outcome.text
    finish(mpirun(2), tmp_path, *options)


def flushed(out: Path) -> dict[str, int]:
    """Rounds in each file; what one holds beyond the checkpoint the next began at is left there."""
    found = {}
    for path in out.glob("trajectory*.h5"):
        try:
            found[path.name] = len(Trajectory(path, segments=False).rounds)
        except TrajectoryError:  # it is being written just now
            continue
    return found


def test_ten_kills_change_nothing(whole: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL or SIGUSR2 to a random rank at random; benchmarks/hundred_kills.py does more."""
    draw = random.Random(7)
    out, options = tmp_path, [*RUNS["short"], "--checkpoint-every=0.3 s"]
    for _ in range(10):
        with started(mpirun(2), arguments(out, *options)) as job:
            until(lambda job=job: job.ranks() or job.process.poll() is not None, 60, "ranks")
            time.sleep(draw.uniform(0.5, 3.0))
            before = flushed(out)
            if pid := job.ranks().get(draw.randrange(2)):
                with_ = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGUSR2])
                try:
                    os.kill(pid, with_)
                except ProcessLookupError:
                    pass
            job.wait(90)
            until(lambda job=job: not job.pids(), 30, "no orphans")
        after = flushed(out)
        assert all(after[file] >= rounds for file, rounds in before.items())
    assert torch.equal(finish(mpirun(2), out, *options), final(whole["short"]))
    same_record(whole["short"], out)
