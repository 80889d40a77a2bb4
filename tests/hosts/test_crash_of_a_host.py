"""The power of a host goes: its processes are gone, and nobody is told. Jobs end and go on.

All jobs are on the host that crashes at the same time, most of which is waiting: one per launcher,
and three of the templates in a Slurm that has a slurmd on each host. What becomes of them comes in
steps, and each test waits for its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from crashed_jobs import BOUND_S, NAMED, Crash, end_as_told, ended, has_checkpoint, is_back
from hosts import Hosts
from launches import launched, run_on
from launching import ROOT, TRAIN, patient, until
from moved_runs import check_same_run
from slurm_jobs import submit
from slurm_of_hosts import SlurmOfHosts

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

STEPS = 500
WATCHDOG_S = 6  # a start may take longer: see the task
PATIENCE_S = 300
BOTH = {"a": 1, "b": 1}
MODULES = f"{ROOT}:{ROOT / 'tests' / 'mpi'}"  # ours, and that of the slow task
SEVERAL = str(ROOT / "tests" / "mpi" / "several_runs.py")
SLOW = ("--task=slow_digits.slow_digits", "--task.step_s=0.3")
RUN = (
    *("--task.hidden=8", "--batch-per-worker=4", "--schedule=every", "--schedule.steps=4"),
    # By the clock: many while steps are slow, few in the quick ones behind.
    *("--checkpoint-every=2 s", "--evaluate-every=0", "--spread-every=0", "--snapshot-every=100%"),
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
        ANSWER="10",
        TASKS_PER_NODE="1",
        ONCE=str(tmp_path_factory.mktemp("once")),  # it makes again what was made of the round
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
def noticed(all_train: Crash, slurm: SlurmOfHosts) -> Crash:
    """The host b crashes, and ranks of launchers say so."""
    it = all_train
    slurm.crash("b")
    it.began = time.monotonic()
    until(lambda: all(map(NAMED.search, it.texts())), BOUND_S, "the ranks on a name the host")
    return it


@pytest.fixture(scope="module")
def crash(noticed: Crash) -> Crash:
    """The jobs of launchers have ended."""
    it, waiting = noticed, dict(noticed.launched)
    until(lambda: ended(it, waiting), BOUND_S, "the ranks on the other host have ended")
    for name, job in it.launched.items():
        it.said[name] = end_as_told(job)
    return it


@pytest.fixture(scope="module")
def requeued(crash: Crash) -> Crash:
    """The jobs in Slurm are back in its queue, but for that of three workers."""
    jobs = [crash.submitted[name] for name in JOBS]
    until(lambda: all(is_back(job) for job in jobs), PATIENCE_S, "requeued")
    return crash


@pytest.fixture(scope="module")
def without_b(requeued: Crash) -> Crash:
    """That one goes on."""
    out = requeued.out(ELASTIC)
    until(lambda: has_checkpoint(out, of=2), PATIENCE_S, "it goes on without b")
    return requeued


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


def test_ranks_that_are_left_say_so(noticed: Crash) -> None:
    assert [bool(NAMED.search(said)) for said in noticed.texts()] == [True] * len(LAUNCHERS)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_job_ends_and_names_the_host(crash: Crash, launcher: str) -> None:
    assert crash.seconds[launcher] < patient(BOUND_S)
    said = crash.said[launcher]
    assert NAMED.search(said), said
    assert f"resume with python -m hpc_localsgd.train --config {crash.out(launcher)}" in said


def test_slurm_takes_its_jobs_back(requeued: Crash) -> None:
    for name in JOBS:
        job = requeued.submitted[name]
        assert job.cluster.job(job.number)["Restarts"] == "1"


def test_but_for_that_which_can_do_without(without_b: Crash) -> None:
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
