"""A job asked to stop, wherever its ranks are, is gone within 10 s and continues bit for bit.

Jobs that are ended early mostly wait: some run at a time, from the first test on, and each test
waits for its own. In the end all are resumed in one launch, where each test waits for its own, too.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from arriving import arrived, slow_from
from ends_of_several import SEVERAL, has_ended, options_of
from launching import (
    TRAIN,
    Job,
    Outcome,
    behind_tests,
    gloo,
    horovodrun,
    mpirun,
    patient,
    started,
    steps_of_ranks,
    until,
)

from hpc_localsgd.commands.exit_codes import HUNG, STOPPED
from hpc_localsgd.commands.summary import status
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete, number
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

STEPS = 240
AT = 75  # where a run is stopped: between the exchanges of a round of 8
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4"]
RUN += [f"--steps={STEPS}", "--evaluate-every=60", "--figures=false", "--resume=auto"]
SHORT = ["--schedule=post_local", "--schedule.switch=50", "--schedule.every=8"]
LONG = ["--schedule=every", "--schedule.steps=200", "--evaluate-every=5000"]
SINGLE = ["--schedule=every", "--schedule.steps=1"]
LATE_AT = 100
LATE = ["--task.late=1", f"--task.at={LATE_AT}"]
RUNS = {
    "long": [*LONG, *LATE, "--world=mpi"],
    "short": [*SHORT, "--world=mpi"],
    "gossip": [*SHORT, "--algorithm=gossip", "--optimizer=AdamW", "--world=mpi"],
    "overlap": [*SHORT, "--algorithm=overlap", "--world=mpi"],
    "horovod short": [*SHORT, "--world=horovod"],
    "horovod long": [*LONG, "--world=horovod"],
    "horovod single": [*SINGLE, *LATE, "--world=horovod"],
}
WRITTEN_WITHIN_S = 10
AT_ONCE = 3  # jobs


@pytest.fixture(scope="module", autouse=True)
def the_slow_task_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


def ranks(**variables: object) -> list[str]:
    """Two ranks under mpirun, with variables of their own."""
    return ["env", *(f"{name}={value}" for name, value in variables.items()), *mpirun(2)]


def arguments(out: Path, *options: str) -> list[str]:
    return [*TRAIN, *RUN, *options, f"--out={out}"]


def final(out: Path) -> torch.Tensor:
    """The parameters [K, P] a finished run left behind."""
    found = last_complete(out)
    assert found is not None and number(found[0]) == STEPS
    return torch.cat([shard.read(p)["x"] for p in sorted(found[0].glob("*.pt"))])


def trains(job: Job, out: Path) -> bool:
    """Whether both ranks have begun."""
    begun = "step   0/" in job.stdout.read_text()
    return begun and len(job.ranks()) == 2 and (out / "trajectory.h5").exists()


@contextmanager
def in_the_middle(launcher: Sequence[str], out: Path, *options: str) -> Iterator[Job]:
    """Start a run; both ranks have come to step AT, and are half a minute or more from the end."""
    with arrived(behind_tests(launcher), arguments(out, *options), out, AT) as job:
        until(lambda: trains(job, out), 60, "it says so")
        yield job


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


def stopped_by(name: str, by: str, out: Path) -> None:
    """Ask the ranks of mpirun to stop in their middle, by a signal."""
    with in_the_middle(mpirun(2), out, *RUNS[name]) as job:
        assert asked_to_stop(job, out, by) == STOPPED


def killed_by_mpirun(out: Path) -> None:
    """SIGTERM to mpirun, which kills its ranks about a second later, whatever they have written."""
    with in_the_middle(mpirun(2), out, *RUNS["gossip"], "--checkpoint-every=25") as job:
        until(lambda: flushed(out) and last_complete(out), 60, "a record and a checkpoint")
        before, saved = flushed(out), last_complete(out)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(60).status != 0
    found = last_complete(out)
    assert saved is not None and found is not None and number(found[0]) >= number(saved[0])
    assert len([shard.read(path) for path in found[0].glob("*.pt")]) == 2  # each by its checksum
    after = flushed(out)
    assert before and all(after[file] >= rounds for file, rounds in before.items())


def stopped_while_rank_0_waits(name: str, exchange: int, out: Path) -> None:
    """Rank 1 stays in step LATE_AT, and rank 0 comes to the end of a step without it."""
    with started(behind_tests(ranks(LATE_S=1000)), arguments(out, *RUNS[name])) as job:
        until(lambda: steps_of_ranks(out) == [exchange, LATE_AT], 200, "they are there")
        assert asked_to_stop(job, out) == STOPPED
    found = last_complete(out)
    assert found is not None
    at = [shard.read(p)["place"]["t"] for p in sorted(found[0].glob("*.pt"))]
    assert at[0] <= exchange and at[1] <= LATE_AT  # copies: neither was at the end of a step


def stopped_by_a_file(launcher: Callable[[int], list[str]], out: Path) -> None:
    """Where no signal arrives: horovodrun has statuses of its own."""
    with in_the_middle(launcher(2), out, *RUNS["horovod short"]) as job:
        assert asked_to_stop(job, out, "STOP") != 0


def frozen(out: Path) -> None:
    """A rank that is frozen is named, and the job ended."""
    options = [*RUNS["short"], "--checkpoint-every=0.3 s", "--watchdog=15 s"]
    with in_the_middle(mpirun(2), out, *options) as job:
        until(lambda: last_complete(out), 60, "a checkpoint")
        os.kill(job.ranks()[1], signal.SIGSTOP)
        outcome = job.wait(120)
    assert outcome.status == HUNG or mpirun_aborted(outcome)
    assert "no longer report: rank 1 (" in outcome.text, outcome.text


def ended_twice(out: Path) -> None:
    """A rank at random is killed, as it starts and where it trains.

    benchmarks/hundred_kills.py does more.
    """
    draw = random.Random(7)
    given = arguments(out, *RUNS["short"], "--checkpoint-every=0.3 s")
    launcher, here = behind_tests(mpirun(2)), out.with_name("killed-starts")
    with started(slow_from(0, here, launcher), given) as job:
        until(lambda: len(job.ranks()) == 2, 60, "both ranks are there")
        time.sleep(draw.uniform(0.3, 2.0))
        killed(job, out, draw.randrange(2))
    with arrived(launcher, given, out, 60 + draw.randrange(40)) as job:
        time.sleep(draw.uniform(0.0, 1.0))
        killed(job, out, draw.randrange(2))


def killed(job: Job, out: Path, rank: int) -> None:
    """Kill a rank: the job ends, and no round that was on the disk is lost."""
    before = flushed(out)
    os.kill(job.ranks()[rank], signal.SIGKILL)
    job.wait(90)
    after = flushed(out)
    assert all(after[file] >= rounds for file, rounds in before.items())


def flushed(out: Path) -> dict[str, int]:
    """Rounds in each file; what one holds beyond the checkpoint the next began at is left there."""
    found = {}
    for path in out.glob("trajectory*.h5"):
        try:
            found[path.name] = len(Trajectory(path, segments=False).rounds)
        except TrajectoryError:  # it is being written just now
            continue
    return found


# Name -> which of RUNS ends early, and how; begun in this order.
HALTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "two ends": ("short", ended_twice),
    "frozen": ("short", frozen),
    "a long round": ("horovod long", partial(stopped_by, "horovod long", "SIGUSR1")),
    "SIGTERM": ("overlap", partial(stopped_by, "overlap", "SIGTERM")),
    "mpi waits": ("long", partial(stopped_while_rank_0_waits, "long", 199)),
    "horovod waits": (
        "horovod single",
        partial(stopped_while_rank_0_waits, "horovod single", LATE_AT),
    ),
    "mpirun kills": ("gossip", killed_by_mpirun),
    "horovodrun": ("horovod short", partial(stopped_by_a_file, horovodrun)),
    "horovodrun --gloo": ("horovod short", partial(stopped_by_a_file, gloo)),
}
QUICK = ("a long round", "SIGTERM")  # over before those that began with them
SLOW = "frozen"  # until the watchdog bites
OVER = [*QUICK, *(halt for halt in HALTS if halt not in (*QUICK, SLOW)), SLOW]


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    """The folders of all of HALTS, each when it has been ended early."""
    folder = tmp_path_factory.mktemp("halted")

    def end(halt: str) -> Path:
        out = folder / halt.replace(" ", "-")
        HALTS[halt][1](out)
        return out

    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield {halt: threads.submit(end, halt) for halt in HALTS}
        threads.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def finishing(
    halted: dict[str, Future[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Job, dict[str, Path]]]:
    """A launch in which all of RUNS, left alone, and all of HALTS go on to their ends."""
    folder = tmp_path_factory.mktemp("whole")
    outs = {name: folder / name.replace(" ", "-") for name in RUNS}
    of_runs = {name: name for name in RUNS} | {halt: of for halt, (of, _) in HALTS.items()}
    outs |= {halt: halted[halt].result() for halt in HALTS}
    for name, out in outs.items():
        options_of(out).write_text("\n".join([*RUN, *RUNS[of_runs[name]], f"--out={out}"]))
    launcher = ranks(HURRY=SEVERAL)  # a file that is there: nobody waits for a middle
    with started(
        behind_tests(launcher), [SEVERAL, *map(str, map(options_of, outs.values()))]
    ) as job:
        yield job, outs


@pytest.mark.parametrize("halt", OVER)
def test_it_ends_soon_and_keeps_what_it_has(halted: dict[str, Future[Path]], halt: str) -> None:
    assert last_complete(halted[halt].result()) is not None


@pytest.mark.parametrize("name", RUNS)
def test_left_alone_it_ends(finishing: tuple[Job, dict[str, Path]], name: str) -> None:
    job, outs = finishing
    has_ended(job, options_of(outs[name]))
    assert status(outs[name]) == "complete"


@pytest.mark.parametrize("halt", HALTS)
def test_resumed_it_is_the_same_run(finishing: tuple[Job, dict[str, Path]], halt: str) -> None:
    job, outs = finishing
    out, once = outs[halt], outs[HALTS[halt][0]]
    for each in (once, out):
        has_ended(job, options_of(each))
    begun = len(Trajectory(out).paths)
    assert begun in ((2, 3) if halt == "two ends" else (2,))
    assert torch.equal(final(out), final(once))
    same_record(once, out)
    if halt == [*HALTS][-1]:
        job.wait().succeeded()
