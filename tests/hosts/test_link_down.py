"""A cable that is pulled: the ranks end within the watchdog's bound and say how to resume.

mpirun itself waits for a host that it cannot reach until the kernel gives up; what is said ends it.
Horovod's Gloo gives up by itself, before the watchdog where that has more patience.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hosts import Hosts
from launching import TRAIN, Job, gloo, mpirun, patient, started, steps_of_ranks, until
from test_ranks_on_hosts import ON_BOTH

WATCHDOG_S = 20  # a start may take longer: see the task
BOUND_S = 100  # the watchdog's 20 s, 11 s for signs of life, 8 s for the shards, and a slow machine
LONG = (
    *("--task=slow_digits.slow_digits", "--task.hidden=8", "--task.step_s=0.02", "--steps=100000"),
    *("--schedule=every", "--schedule.steps=4", "--figures=false", f"--watchdog={WATCHDOG_S} s"),
)


@pytest.fixture(autouse=True)
def slow_digits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "mpi"))


@pytest.mark.parametrize("world", ["mpi", "horovod"])
def test_the_job_ends_within_the_bound_with_the_way_to_go_on(
    hosts: Hosts, tmp_path: Path, world: str
) -> None:
    out = tmp_path / "run"
    options = [*TRAIN, *LONG, f"--world={world}", f"--out={out}"]
    words = [word for word in mpirun(2) if word != "--oversubscribe"]
    with started([*hosts["a"].on, *words, *ON_BOTH], options) as job:
        until(lambda: stepping(job, out), 90, "both ranks take steps")
        with hosts.cut("b"):
            until(lambda: not job.ranks(), BOUND_S, "the ranks ended")
            said = job.stderr.read_text()
            kill = re.search(r"prterun waits for it.*`kill -9 (\d+)` on a", said)
            assert kill and int(kill[1]) == job.process.pid
            os.kill(int(kill[1]), signal.SIGKILL)
            job.process.wait(patient(BOUND_S))
        job.wait()
    assert "the job hangs and is ended" in said
    kept_and_said(out, said)


def test_an_exchange_that_fails_before_the_watchdog_looks_ends_in_a_sentence(
    hosts: Hosts, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    soon = ["env", "HOROVOD_GLOO_TIMEOUT_SECONDS=20"]  # a slow machine may take long, too
    launcher = [*soon, *gloo(2), "-H", "a:1,b:1", "--network-interfaces", "eth0"]
    patient = [*TRAIN, *LONG[:-1], "--watchdog=10 minutes", f"--out={out}"]
    with started([*hosts["a"].on, *launcher], patient) as job:
        until(lambda: stepping(job, out), 90, "both ranks take steps")
        with hosts.cut("b"):
            until(lambda: not job.ranks(), BOUND_S, "the ranks ended")
            outcome = job.wait()
    assert outcome.stdout.count("exit with status code 86") == 2, outcome.text
    of_ranks = [line for line in outcome.stderr.splitlines() if "<stderr>:" in line]
    assert not any("Traceback" in line for line in of_ranks)
    assert outcome.stderr.count("does not reach the others: one has ended, or the network") == 1
    kept_and_said(out, outcome.stderr)


def test_a_run_goes_on_when_its_cable_is_put_back(hosts: Hosts, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [word for word in mpirun(2) if word != "--oversubscribe"]
    patient = [*TRAIN, *LONG[:-1], "--watchdog=1 hour", "--world=mpi", f"--out={out}"]
    with started([*hosts["a"].on, *words, *ON_BOTH], patient) as job:
        until(lambda: stepping(job, out), 90, "both ranks take steps")
        with hosts.cut("b"):
            waited_at = waiting(job, out)
        until(lambda: min(steps_of_ranks(out), default=0) > waited_at, 90, "they go on")
        (out / "STOP").touch()
        outcome = job.wait()
    assert "stopped on STOP" in outcome.stderr, outcome.text
    kept_and_said(out, outcome.stderr)


def waiting(job: Job, out: Path) -> int:
    """The step that both ranks wait in, as they say three times, which they do every 5 s."""
    said = list[tuple[str, ...]]()

    def stand_still() -> bool:
        assert job.process.poll() is None, job.wait().text[-3000:]
        now = tuple(file.read_text() for file in sorted((out / "ranks").glob("rank-*")))
        if not said or now != said[-1]:
            said.append(now)
        steps = [
            {word.partition(",")[0] for word in ranks} for ranks in zip(*said[-6:], strict=True)
        ]
        return len(said) >= 6 and all(len(one) == 1 for one in steps)

    until(stand_still, 60, "they wait for each other")
    return max(steps_of_ranks(out))


def kept_and_said(out: Path, said: str) -> None:
    """Both ranks' shards are there, and one line says how to resume from them."""
    line = f"resume with python -m hpc_localsgd.train --config {out / 'config.yaml'}"
    assert said.count(line) == 1, said
    shards = {file.name for file in (out / "checkpoints").rglob("rank-*.pt")}
    assert shards == {"rank-0-of-2.pt", "rank-1-of-2.pt"}


def stepping(job: Job, out: Path) -> bool:
    """Whether both ranks are behind their first steps, as they say; fails if the job ends."""
    assert job.process.poll() is None, job.wait().text[-3000:]
    steps = steps_of_ranks(out)
    return len(steps) == 2 and min(steps) > 0
