"""The power of a host goes: its processes are gone, and nobody is told. Jobs end and go on.

All jobs are on the host that crashes at the same time, most of which is waiting: one per launcher,
and three of the templates in a Slurm that has a slurmd on each host. What becomes of them comes in
steps, and each test waits for its own.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hosts import Hosts
from launches import launched, run_on
from launching import ROOT, TRAIN, Job, patient, until
from moved_runs import check_same_run
from slurm_jobs import Submitted, submit
from slurm_of_hosts import SlurmOfHosts

from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

STEPS = 500
WATCHDOG_S = 15  # a start may take longer: see the task
BOUND_S = 150  # 15 s, 11 s for signs of life, 8 s for the shards, and a slow machine
PATIENCE_S = 300
BOTH = {"a": 1, "b": 1}
MODULES = f"{ROOT}:{ROOT / 'tests' / 'mpi'}"  # ours, and that of the slow task
SEVERAL = str(ROOT / "tests" / "mpi" / "several_runs.py")
SLOW = ("--task=slow_digits.slow_digits", "--task.step_s=0.3")
RUN = (
    *("--task.hidden=8", "--batch-per-worker=4", "--schedule=every", "--schedule.steps=4"),
    *("--checkpoint-every=8", "--evaluate-every=0", "--spread-every=0", "--snapshot-every=100%"),
    *("--snapshot-workers", "--figures=false", f"--steps={STEPS}", f"--watchdog={WATCHDOG_S} s"),
)
LAUNCHERS = {"mpirun": "mpi", "torchrun": "torch"}  # and the worlds of their ranks
JOBS = {"requeued by Slurm": "", "no-kill": " --no-kill"}
ELASTIC = "elastic"  # of three workers; on a, b and c, goes on without b, then is back with it
# At the rate of 0.1 rounding grows to 1e-8 in so many steps, also if the start moves by one digit.
OF_ELASTIC = (
    *(*RUN, "--schedule.steps=300", "--dtype=float64", "--replicas=loop", "--rate.lr=0.01"),
    "--spread-every=8",
)

pytestmark = pytest.mark.timeout(1200)  # of the fixture that runs them all; a bound, not a speed


@dataclass
class Crash:
    """What became of the jobs that were on the host that crashed.

    Attributes:
        folder: Has the folders of the runs, by the names of their launchers.
        launched: What the launchers are on host a.
        said: What the ranks of a launcher said until they had ended.
        seconds: From the crash until they had.
        submitted: The jobs in Slurm.
    """

    folder: Path
    launched: dict[str, Job] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    submitted: dict[str, Submitted] = field(default_factory=dict)

    def out(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")


@pytest.fixture(scope="module")
def hurry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that makes steps quick, for processes that find the slow task."""
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path_factory.mktemp("hurry") / "now"
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "mpi"))
        patch.setenv("HURRY", str(file))
        yield file


@pytest.fixture(scope="module")
def in_slurm(slurm: SlurmOfHosts, hurry: Path, tmp_path_factory: pytest.TempPathFactory) -> Crash:
    """The jobs in Slurm, which train."""
    it = Crash(tmp_path_factory.mktemp("crash"))
    variables = {"PYTHONPATH": MODULES, "HURRY": str(hurry)}
    for name, more in JOBS.items():
        words = f"--nodes=2 --ntasks-per-node=1 --nodelist=a,b{more}"
        it.submitted[name] = submit(
            slurm, "digits_demo", it.out(name), *SLOW, *RUN, sbatch=words, **variables
        )
    it.submitted[ELASTIC] = submit(
        slurm,
        "elastic",
        it.out(ELASTIC),
        *SLOW,
        *OF_ELASTIC,
        sbatch="--nodes=2-3 --mincpus=1",
        WORKERS="3",
        TASKS_PER_NODE="1",
        **variables,
    )
    train_together(it, it.submitted)
    return it


@pytest.fixture(scope="module")
def all_train(hosts: Hosts, in_slurm: Crash) -> Iterator[Crash]:
    """Beside them those of launchers, which train too."""
    it = in_slurm
    with ExitStack() as stack:
        for name, world in LAUNCHERS.items():
            given = [*TRAIN, *options(it, name, world)]
            it.launched[name] = stack.enter_context(launched(hosts, name, BOTH, given))[0]
        train_together(it, LAUNCHERS)
        yield it


@pytest.fixture(scope="module")
def crash(all_train: Crash, slurm: SlurmOfHosts) -> Crash:
    """The host b crashes, and the jobs of launchers end."""
    it, waiting = all_train, dict(all_train.launched)
    slurm.crash("b")
    began = time.monotonic()
    until(lambda: ended(it, waiting, began), BOUND_S, "the ranks on the other host have ended")
    for name, job in it.launched.items():
        it.said[name] = end_as_told(job)
    return it


@pytest.fixture(scope="module")
def without_b(crash: Crash) -> Crash:
    """The jobs in Slurm are back in its queue, but for that of three workers, which goes on."""
    jobs = [crash.submitted[name] for name in JOBS]
    until(lambda: all(is_back(job) for job in jobs), PATIENCE_S, "requeued")
    out = crash.out(ELASTIC)
    until(lambda: has_checkpoint(out, of=2), PATIENCE_S, "it goes on without b")
    return crash


@pytest.fixture(scope="module")
def with_b(without_b: Crash, slurm: SlurmOfHosts, hurry: Path) -> Crash:
    """The host comes back, and all jobs in Slurm are started again."""
    it = without_b
    elastic = it.submitted[ELASTIC].number
    slurm.command("scancel", "--batch", "--signal=USR2", elastic)  # as before its time limit
    slurm.wait_for_requeue(elastic)
    hurry.touch()
    slurm.boot("b")
    slurm.start_requeued(*(job.number for job in it.submitted.values()))
    return it


def options(it: Crash, name: str, world: str) -> list[str]:
    return [*SLOW, *RUN, f"--world={world}", f"--out={it.out(name)}"]


def train_together(it: Crash, names: Iterable[str]) -> None:
    """Wait until each of these jobs can be resumed."""
    until(lambda: all(has_checkpoint(it.out(name)) for name in names), PATIENCE_S, "all train")


def has_checkpoint(out: Path, of: int | None = None) -> bool:
    """Whether a run can be resumed; of so many ranks, if that is asked."""
    found = last_complete(out)
    return found is not None and of in (None, found[1])


def ended(it: Crash, waiting: dict[str, Job], began: float) -> bool:
    """Note which jobs have no rank any more; whether that is so of all."""
    for name, job in list(waiting.items()):
        if not job.ranks():
            it.seconds[name] = time.monotonic() - began
            del waiting[name]
    return not waiting


def end_as_told(job: Job) -> str:
    """What a job said. A launcher that waits for the host is ended as its ranks said."""
    told = re.search(r"`kill -9 (\d+)` on a", job.stderr.read_text())
    if told and int(told[1]) == job.process.pid:
        os.kill(int(told[1]), signal.SIGKILL)
    return job.wait(BOUND_S).text


def is_back(job: Submitted) -> bool:
    """Whether a job waits in the queue for its second start."""
    known = job.cluster.job(job.number)
    assert known["JobState"] not in ("COMPLETED", "FAILED"), job.said.read_text()[-3000:]
    return (known["JobState"], known["Restarts"]) == ("PENDING", "1")


@pytest.fixture(scope="module")
def whole(with_b: Crash, hosts: Hosts) -> np.ndarray:
    """The parameters [K, P] at the end of the run that nobody interrupts, on one host.

    In the same launch the one of mpirun goes on, on the host that is left.
    """
    crash, files = with_b, []
    for name in ("mpirun", "whole"):
        files.append(crash.folder / f"{name}.options")
        files[-1].write_text("\n".join([*options(crash, name, "mpi"), "--resume=auto"]))
    (launch,) = run_on(hosts, "mpirun", {"a": 2}, [SEVERAL, *map(str, files)])
    launch.succeeded()
    return final(crash.out("whole"))


def final(out: Path) -> np.ndarray:
    found = Trajectory(out).snapshot(STEPS, workers=True).workers
    assert found is not None
    return found


def test_jobs_in_slurm_train_on_all_their_hosts(in_slurm: Crash) -> None:
    ranks = {name: 2 for name in JOBS} | {ELASTIC: 3}
    assert all(has_checkpoint(in_slurm.out(name), of=n) for name, n in ranks.items())


def test_jobs_of_launchers_train_on_both_hosts(all_train: Crash) -> None:
    assert all(has_checkpoint(all_train.out(name), of=2) for name in LAUNCHERS)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_job_ends_and_names_the_host(crash: Crash, launcher: str) -> None:
    assert crash.seconds[launcher] < patient(BOUND_S)
    said = crash.said[launcher]
    assert re.search(r"These no longer report: rank 1 \(step \d+ on b\)", said), said
    assert f"resume with python -m hpc_localsgd.train --config {crash.out(launcher)}" in said


def test_slurm_takes_its_jobs_back_but_for_that_which_can_do_without(without_b: Crash) -> None:
    for name, job in without_b.submitted.items():
        assert job.cluster.job(job.number)["Restarts"] == str(int(name != ELASTIC))


def test_all_jobs_in_slurm_start_again(with_b: Crash) -> None:
    for job in with_b.submitted.values():
        assert job.cluster.job(job.number)["Restarts"] == "1"


def test_a_job_of_a_range_of_nodes_takes_those_that_are_there(with_b: Crash) -> None:
    """As it starts, in mid-round without the one that failed, and when it is back in the queue."""
    job = with_b.submitted[ELASTIC]
    said = job.completed()
    assert job.cluster.job(job.number)["Restarts"] == "1"
    assert re.search(r"\.0 [\d:]+\] 3 node\(s\) .*, 3 rank\(s\)", said), said
    assert "2 of 3 nodes answer" in said and "on with 2 rank(s) on a,c" in said, said
    assert re.search(r"\.1 [\d:]+\] 3 node\(s\) .*, 3 rank\(s\)", said), said
    for before, now in ((3, 2), (2, 3)):
        line = f"of {before} ranks and this job has {now}: the same 3 workers continue"
        assert line in said, said
    one = with_b.folder / "one"
    assert main([*OF_ELASTIC, "--workers=3", f"--out={one}"]) == 0
    check_same_run(job.out, one, launches=3)


def test_it_goes_on_bit_for_bit_on_the_host_that_is_left(crash: Crash, whole: np.ndarray) -> None:
    same_as_uninterrupted(crash.out("mpirun"), whole)


def test_it_goes_on_bit_for_bit_with_the_host_that_came_back(
    crash: Crash, whole: np.ndarray, hosts: Hosts
) -> None:
    again = [*TRAIN, *options(crash, "torchrun", "torch"), "--resume=auto"]
    for outcome in run_on(hosts, "torchrun", BOTH, again):
        outcome.succeeded()
    same_as_uninterrupted(crash.out("torchrun"), whole)


@pytest.mark.parametrize("name", JOBS)
def test_slurm_starts_it_again_and_it_goes_on_bit_for_bit(
    crash: Crash, whole: np.ndarray, name: str
) -> None:
    job = crash.submitted[name]
    said = job.completed()
    assert job.cluster.job(job.number)["Restarts"] == "1"
    if name == "no-kill":  # Slurm does not end the job for a node that fails: its script does
        assert re.search("failed with status .*; back into the queue", said), said
    same_as_uninterrupted(job.out, whole)


def same_as_uninterrupted(out: Path, whole: np.ndarray) -> None:
    run = Trajectory(out)
    began = int(Trajectory(run.paths[-1], segments=False).attrs["t0"])
    assert run.status == "complete" and len(run.paths) == 2 and 0 < began < STEPS
    assert np.array_equal(final(out), whole)
