"""A cable that is pulled: the ranks end within the watchdog's bound and say how to resume.

mpirun itself waits for a host that it cannot reach until the kernel gives up; what is said ends it.
Horovod's Gloo gives up by itself, before the watchdog where that has more patience.

All jobs run at the same time, most of which is waiting. One gets its cable back, and goes on. What
becomes of them comes in steps, and each test waits for its own.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hosts import Hosts
from launching import TRAIN, Job, Outcome, gloo, mpirun, patient, started, steps_of_ranks, until

WATCHDOG_S = 6  # a start may take longer: see the task
BOUND_S = 100  # the watchdog's 6 s, 11 s for signs of life, 8 s for the shards, and a slow machine
LONG = (
    *("--task=slow_digits.slow_digits", "--task.hidden=8", "--task.step_s=0.02", "--steps=100000"),
    *("--schedule=every", "--schedule.steps=4", "--figures=false"),
)

pytestmark = pytest.mark.timeout(900)  # of the fixture that runs them all; a bound, not a speed


def by_mpirun(other: str) -> list[str]:
    """One rank on a and one on another host."""
    return [*(word for word in mpirun(2) if word != "--oversubscribe"), "--host", f"a:1,{other}:1"]


def by_gloo(other: str) -> list[str]:
    soon = ["env", "HOROVOD_GLOO_TIMEOUT_SECONDS=20"]  # a slow machine may take long, too
    return [*soon, *gloo(2), "-H", f"a:1,{other}:1", "--network-interfaces", "eth0"]


@dataclass
class Ranks:
    """Two ranks, of which one loses its cable.

    Attributes:
        launcher: Starts them on a and on another host.
        options: Of the training, beside those that all have.
        other: That host.
        out: Folder of the run.
        ended: How the job ended.
    """

    launcher: Callable[[str], list[str]]
    options: tuple[str, ...]
    other: str = "b"
    out: Path = Path()
    ended: Outcome | None = None

    def said(self) -> str:
        """What they said; fails the test unless both have their shards and one says what to do."""
        assert self.ended is not None
        line = f"resume with python -m hpc_localsgd.train --config {self.out / 'config.yaml'}"
        assert self.ended.stderr.count(line) == 1, self.ended.text
        shards = {file.name for file in (self.out / "checkpoints").rglob("rank-*.pt")}
        assert shards == {"rank-0-of-2.pt", "rank-1-of-2.pt"}
        return self.ended.stderr


@dataclass
class Jobs:
    """Those that lose the cable of b, and one that loses that of c for a moment.

    Attributes:
        made: All of them.
        run: Those that have not ended.
        cut: Puts the cable of b back.
        moment: Puts that of c back.
        waited_at: Step in which the ranks of a and c waited for each other.
    """

    made: dict[str, Ranks]
    run: dict[str, Job] = field(default_factory=dict)
    cut: ExitStack = field(default_factory=ExitStack)
    moment: ExitStack = field(default_factory=ExitStack)
    waited_at: int = 0


@pytest.fixture(scope="module")
def begun(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """All have been started."""
    soon = f"--watchdog={WATCHDOG_S} s"
    made = {
        "mpi": Ranks(by_mpirun, ("--world=mpi", soon)),
        "horovod": Ranks(by_mpirun, ("--world=horovod", soon)),
        "gloo": Ranks(by_gloo, ("--watchdog=10 minutes",)),
        "goes on": Ranks(by_mpirun, ("--world=mpi", "--watchdog=1 hour"), "c"),
    }
    its, folder = Jobs(made), tmp_path_factory.mktemp("cables")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # the slow task
            patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "mpi"))
            for name, one in made.items():
                one.out = folder / name.replace(" ", "-")
                launcher = [*hosts["a"].on, *one.launcher(one.other)]
                given = [*TRAIN, *LONG, *one.options, f"--out={one.out}"]
                its.run[name] = stack.enter_context(started(launcher, given))
        with its.cut, its.moment:
            yield its


@pytest.fixture(scope="module")
def pulled(begun: Jobs, hosts: Hosts) -> Jobs:
    """The cables of b and of c are out."""
    for name in begun.made:
        step(begun, name)
    begun.cut.enter_context(hosts.cut("b"))
    begun.moment.enter_context(hosts.cut("c"))
    begun.waited_at = waiting(begun.run["goes on"], begun.made["goes on"].out)
    return begun


@pytest.fixture(scope="module")
def back_again(pulled: Jobs) -> Jobs:
    """That of c is back."""
    out = pulled.made["goes on"].out
    pulled.moment.close()
    until(lambda: min(steps_of_ranks(out), default=0) > pulled.waited_at, 90, "two go on")
    (out / "STOP").touch()
    pulled.made["goes on"].ended = pulled.run.pop("goes on").wait()
    return pulled


@pytest.fixture(scope="module")
def jobs(back_again: Jobs) -> dict[str, Ranks]:
    """All have ended."""
    made, run = back_again.made, back_again.run
    until(lambda: not any(job.ranks() for job in run.values()), BOUND_S, "the ranks ended")
    made["gloo"].ended = run.pop("gloo").wait()
    for job in run.values():
        end_as_told(job)
    back_again.cut.close()
    for name, job in run.items():
        made[name].ended = job.wait()
    return made


def end_as_told(job: Job) -> None:
    """Kill a launcher that waits for a host, as its ranks said."""
    told = re.search(r"prterun waits for it.*`kill -9 (\d+)` on a", job.stderr.read_text())
    assert told and int(told[1]) == job.process.pid, job.stderr.read_text()
    os.kill(int(told[1]), signal.SIGKILL)
    job.process.wait(patient(BOUND_S))


def step(its: Jobs, name: str) -> None:
    """Wait until one of the jobs trains."""
    until(lambda: stepping(its.run[name], its.made[name].out), 120, f"{name} steps")


def stepping(job: Job, out: Path) -> bool:
    """Whether both ranks are behind their first steps, as they say; fails if the job ends."""
    assert job.process.poll() is None, job.wait().text[-3000:]
    steps = steps_of_ranks(out)
    return len(steps) == 2 and min(steps) > 0


def waiting(job: Job, out: Path) -> int:
    """The step that both ranks wait in, as they say three times, which they do every 2 s."""
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


@pytest.mark.parametrize("name", ["mpi", "horovod", "gloo", "goes on"])
def test_ranks_on_two_hosts_train(begun: Jobs, name: str) -> None:
    step(begun, name)


def test_ranks_wait_for_each_other_while_a_cable_is_out(pulled: Jobs) -> None:
    """In one step, and are not ended by a watchdog of an hour."""
    assert pulled.waited_at > 0 and pulled.run["goes on"].process.poll() is None


def test_a_run_goes_on_when_its_cable_is_put_back(back_again: Jobs) -> None:
    said = back_again.made["goes on"].said()
    assert "stopped on STOP" in said, said


@pytest.mark.parametrize("world", ["mpi", "horovod"])
def test_the_job_ends_within_the_bound_with_the_way_to_go_on(
    jobs: dict[str, Ranks], world: str
) -> None:
    assert "the job hangs and is ended" in jobs[world].said()


def test_an_exchange_that_fails_before_the_watchdog_looks_ends_in_a_sentence(
    jobs: dict[str, Ranks],
) -> None:
    said, outcome = jobs["gloo"].said(), jobs["gloo"].ended
    assert outcome is not None
    assert outcome.stdout.count("exit with status code 86") == 2, outcome.text
    of_ranks = [line for line in said.splitlines() if "<stderr>:" in line]
    assert not any("Traceback" in line for line in of_ranks)
    assert said.count("does not reach the others: one has ended, or the network") == 1
