"""A job asked to stop, wherever its ranks are, is gone within 10 s and continues bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from arriving import arrived
from launching import (
    TRAIN,
    Job,
    Outcome,
    gloo,
    horovodrun,
    mpirun,
    patient,
    started,
    steps_of_ranks,
    until,
)
from launching import run as launch

from hpc_localsgd.commands.exit_codes import HUNG, STOPPED
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete, number
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

STEPS = 600
AT = 150  # where a run is stopped: between the exchanges of a round of 8
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
    """Whether both ranks have begun."""
    begun = "step   0/" in job.stdout.read_text()
    return begun and len(job.ranks()) == 2 and (out / "trajectory.h5").exists()


@contextmanager
def in_the_middle(launcher: Sequence[str], out: Path, *options: str) -> Iterator[Job]:
    """Start a run; both ranks have come to step AT, and are half a minute or more from the end."""
    with arrived(launcher, arguments(out, *options), out, AT) as job:
        until(lambda: trains(job, out), 60, "it says so")
        yield job


def stop(launcher: Sequence[str], out: Path, *options: str, by: str = "SIGUSR2") -> int:
    """Start a run, ask it to stop in its middle, and see that it ends in time; its status."""
    with in_the_middle(launcher, out, *options) as job:
        return asked_to_stop(job, out, by)


def asked_to_stop(job: Job, out: Path, by: str = "SIGUSR2") -> int:
    """Ask a run to stop, and see that it ends in time with new shards of all ranks; its status."""
    asked = time.time()
    if by == "STOP":
        (out / "STOP").touch()
    elif by == "SIGTERM":  # to the ranks, as scancel does: mpirun kills them a second later
        for pid in job.ranks().values():
            os.kill(pid, signal.SIGTERM)
    else:
        job.process.send_signal(getattr(signal, by))
    outcome = job.wait(60)
    found = last_complete(out)
    assert found is not None, outcome.text[-3000:]
    written = [path.stat().st_mtime for path in found[0].glob("*.pt")]
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
    out = tmp_path / "run"
    assert stop(mpirun(2), out, *RUNS[name], by=by) == STOPPED
    assert torch.equal(finish(mpirun(2), out, *RUNS[name]), final(whole[name]))
    same_record(whole[name], out)


def test_a_signal_that_mpirun_follows_with_a_kill_loses_nothing_that_was_written(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    """SIGTERM to mpirun, which kills its ranks about a second later, whatever they have written."""
    out, options = tmp_path / "run", [*RUNS["gossip"], "--checkpoint-every=50"]
    with in_the_middle(mpirun(2), out, *options) as job:
        until(lambda: flushed(out) and last_complete(out), 60, "a record and a checkpoint")
        before, saved = flushed(out), last_complete(out)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(60).status != 0
    found = last_complete(out)
    assert saved is not None and found is not None and number(found[0]) >= number(saved[0])
    assert len([shard.read(path) for path in found[0].glob("*.pt")]) == 2  # each by its checksum
    after = flushed(out)
    assert before and all(after[file] >= rounds for file, rounds in before.items())
    assert torch.equal(finish(mpirun(2), out, *options), final(whole["gossip"]))
    same_record(whole["gossip"], out)


@pytest.mark.parametrize(("name", "exchange"), [("long", 549), ("horovod single", 200)])
def test_a_rank_that_waits_in_an_exchange_and_one_in_a_long_step_write_their_shards(
    whole: dict[str, Path],
    tmp_path: Path,
    name: str,
    exchange: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 1 stays in step 200, and rank 0 comes to the end of a step without it."""
    with monkeypatch.context() as patch:
        patch.setenv("LATE_S", "1000")
        with started(mpirun(2), arguments(tmp_path, *RUNS[name])) as job:
            until(lambda: steps_of_ranks(tmp_path) == [exchange, 200], 200, "they are there")
            assert asked_to_stop(job, tmp_path) == STOPPED
    found = last_complete(tmp_path)
    assert found is not None
    at = [shard.read(p)["place"]["t"] for p in sorted(found[0].glob("*.pt"))]
    assert at[0] <= exchange and at[1] <= 200  # copies: neither was at the end of a step
    assert torch.equal(finish(mpirun(2), tmp_path, *RUNS[name]), final(whole[name]))
    same_record(whole[name], tmp_path)


@pytest.mark.parametrize("launcher", [horovodrun, gloo], ids=["horovodrun", "horovodrun --gloo"])
def test_where_no_signal_arrives_a_file_stops_the_run(
    tmp_path: Path, launcher: Callable[[int], list[str]]
) -> None:
    out = tmp_path / "run"
    status = stop(launcher(2), out, *SHORT, by="STOP")
    assert status != 0  # horovodrun has statuses of its own
    finish(launcher(2), out, *SHORT)
    assert Trajectory(out).rounds.step_end[-1] == STEPS
    assert len(Trajectory(out).paths) == 2


def test_a_frozen_rank_is_named_and_the_job_ended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*RUNS["short"], "--checkpoint-every=0.3 s", "--watchdog=15 s"]
    with in_the_middle(mpirun(2), out, *options) as job:
        until(lambda: last_complete(out), 60, "a checkpoint")
        os.kill(job.ranks()[1], signal.SIGSTOP)
        outcome = job.wait(120)
    assert outcome.status == HUNG or mpirun_aborted(outcome)
    assert "no longer report: rank 1 (" in outcome.text, outcome.text
    finish(mpirun(2), out, *options)


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
