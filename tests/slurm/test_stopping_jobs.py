"""Jobs that are stopped in mid-run, requeue themselves and finish: bitwise the uninterrupted run.

All of them run at the same time, most of which is waiting for processes to start.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster
from launching import ROOT, until
from slurm_jobs import Submitted, submit

from hpc_localsgd.trajectory import Trajectory

STEPS = 400
RUN = "--task=slow_digits.slow_digits --task.hidden=8 --batch-per-worker=4 --figures=false "
RUN += f"--steps={STEPS} --rate.warmup=0 --evaluate-every=50% --spread-every=0 "
RUN += "--snapshot-every=100% --snapshot-workers"
SLOW, FAST = "--task.step-s=0.05", "--task.step-s=0"
MODULES = f"{ROOT}:{ROOT / 'tests' / 'mpi'}"  # ours, and that of the slow task
TWO_NODES = "--nodes=2 --ntasks-per-node=1"
TRAINS_FOR_S = 4.0
PATIENCE_S = 240

pytestmark = pytest.mark.timeout(900)  # of the fixture that runs them all


@dataclass(frozen=True)
class Variant:
    """A run and how its job is started and stopped."""

    options: str
    launcher: str = "srun"
    stopped_by: str = "USR2"


VARIANTS = {
    "post-local": Variant("--schedule.switch=25% --schedule.every=8"),
    # One round, as long as the run.
    "qsr": Variant("--schedule=qsr --schedule.alpha=100"),
    "gossip": Variant("--algorithm=gossip --schedule=every --schedule.steps=8", "mpirun"),
    "diloco": Variant("--algorithm=diloco --schedule=every --schedule.steps=50"),
    "overlap": Variant("--algorithm=overlap --schedule=every --schedule.steps=20", "horovodrun"),
    "a rank killed": Variant(
        "--schedule.switch=0 --schedule.every=8 --checkpoint-every=20", stopped_by="KILL"
    ),
}


def options(variant: Variant) -> list[str]:
    return [*RUN.split(), *variant.options.split()]


@pytest.fixture(scope="module", autouse=True)
def limited(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[Submitted]]:
    """A job that reaches its time limit while the others run, and goes back into the queue.

    Slurm signals some seconds earlier than it was told, and the ranks must have begun by then.
    """
    endless = [*options(Variant("--steps=10000000 --task.step-s=0.05"))]
    limit = f"{TWO_NODES} --time=2 --signal=B:USR2@30"
    out = tmp_path_factory.mktemp("limited") / "run"
    job = submit(cluster, "digits_demo", out, *endless, sbatch=limit, PYTHONPATH=MODULES)

    def stopped() -> Submitted:
        cluster.wait_for_requeue(job.number, timeout_s=200)
        cluster.command("scancel", job.number)
        return job

    with ThreadPoolExecutor() as threads:
        yield threads.submit(stopped)


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs one after the other in one job, without the templates."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    files = []
    for name, variant in VARIANTS.items():
        file = folder / f"{name}.txt"
        file.write_text("\n".join([*options(variant), FAST, f"--out={folder / name}"]))
        files.append(f"'{file}'")
    program = f"python {ROOT}/tests/mpi/several_runs.py {' '.join(files)}"
    said = f"--output={folder}/said"
    wrap = f"srun --mpi=pmix {program}"
    number = cluster.sbatch(*TWO_NODES.split(), said, "--wrap", wrap, PYTHONPATH=MODULES)
    assert cluster.wait(number) == "COMPLETED", (folder / "said").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def stopped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Submitted]:
    """All jobs, stopped in mid-run, back in the queue, and started again."""
    folder = tmp_path_factory.mktemp("stopped")
    jobs = {
        name: submit(
            cluster,
            "digits_demo",
            folder / name.replace(" ", "-"),
            *options(variant),
            SLOW,
            sbatch=TWO_NODES,
            LAUNCHER=variant.launcher,
            PYTHONPATH=MODULES,
        )
        for name, variant in VARIANTS.items()
    }
    waiting = dict(jobs)
    until(lambda: stopped_as_they_train(waiting), PATIENCE_S, "all jobs train")
    cluster.start_requeued(*(job.number for job in jobs.values()))
    return jobs


def stopped_as_they_train(waiting: dict[str, Submitted]) -> bool:
    """Stop those that have trained for a moment; whether that was all."""
    for name, job in list(waiting.items()):
        if trained_s(job) > TRAINS_FOR_S and stop(job, VARIANTS[name]):
            del waiting[name]
    return not waiting


def trained_s(job: Submitted) -> float:
    """Seconds since it last said how far it is, which it does first before its first step."""
    if not job.said.exists() or "test accuracy" not in job.said.read_text():
        return 0.0
    return time.time() - job.said.stat().st_mtime


def stop(job: Submitted, variant: Variant) -> bool:
    """Stop it, if that can be done already."""
    if variant.stopped_by == "USR2":  # what Slurm does before the time limit
        job.cluster.command("scancel", "--batch", "--signal=USR2", job.number)
        return True
    if not any((job.out / "checkpoints").glob("step-*/rank-*")):
        return False
    os.kill(job.cluster.ranks(str(job.out))[0], signal.SIGKILL)
    return True


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_job_finishes_with_bitwise_the_same_parameters(
    name: str, stopped: dict[str, Submitted], uninterrupted: Path
) -> None:
    job = stopped[name]
    said = job.completed()
    assert job.cluster.job(job.number)["Restarts"] == "1" or open_mpi_crashed(said)
    again, once = Trajectory(job.out), Trajectory(uninterrupted / name)
    assert again.status == "complete" and len(again.paths) == 2, said[-3000:]
    assert 0 < t0(again) < STEPS, "it was not stopped in mid-run"
    mine, theirs = (run.snapshot(STEPS, workers=True).workers for run in (again, once))
    assert mine is not None and np.array_equal(mine, theirs)
    np.testing.assert_array_equal(again.rounds.step_end, once.rounds.step_end)
    np.testing.assert_array_equal(again.series("train/loss").value, once.series("train/loss").value)


def open_mpi_crashed(said: str) -> bool:
    """Open MPI 5.0.11 sometimes takes a message in MPI_Init before it can; the job tries again."""
    return "Segmentation fault" in said and "ompi_mpi_init" in said


def t0(run: Trajectory) -> int:
    """The step at which the last segment begins."""
    return int(Trajectory(run.paths[-1], segments=False).attrs["t0"])


def test_the_long_round_was_left_in_its_middle(stopped: dict[str, Submitted]) -> None:
    stopped["qsr"].completed()
    run = Trajectory(stopped["qsr"].out)
    assert list(run.rounds.local_steps) == [STEPS] and 0 < t0(run) < STEPS


def test_the_time_limit_of_slurm_stops_a_job(limited: Future[Submitted]) -> None:
    """The real thing: a limit of two minutes, and the signal well before it."""
    job = limited.result()
    said = job.said.read_text()
    assert "stopped on request; back into the queue" in said, said[-3000:]
    assert any((job.out / "checkpoints").glob("step-*"))
