"""Jobs that are stopped in mid-run, requeue themselves and finish: bitwise the uninterrupted run.

All of them run at the same time, most of which is waiting for processes to start.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster
from launching import ROOT, until
from slurm_jobs import Submitted, open_mpi_crashed, submit

from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.trajectory import Trajectory

STEPS = 200
RUN = "--task=slow_digits.slow_digits --task.hidden=8 --batch-per-worker=4 --figures=false "
RUN += f"--steps={STEPS} --rate.warmup=0 --evaluate-every=50% --spread-every=0 "
RUN += "--snapshot-every=100% --snapshot-workers --task.step-s=0"
AT, SLOW_S = 75, "1"  # where a run is stopped, from where on it is slow until that is done
MODULES = f"{ROOT}:{ROOT / 'tests' / 'mpi'}"  # ours, and that of the slow task
TWO_NODES = "--nodes=2 --ntasks-per-node=1"
PATIENCE_S = 240

pytestmark = pytest.mark.timeout(900)  # of the fixture that runs them all


@dataclass(frozen=True)
class Variant:
    """A run and how its job is started and stopped."""

    options: str
    launcher: str = "srun"
    stopped_by: str = "USR2"


VARIANTS = {
    # One round, as long as the run.
    "qsr": Variant("--schedule=qsr --schedule.alpha=100"),
    "gossip": Variant("--algorithm=gossip --schedule=every --schedule.steps=8", "mpirun"),
    "overlap": Variant("--algorithm=overlap --schedule=every --schedule.steps=20", "horovodrun"),
    "a rank killed": Variant(
        "--schedule.switch=0 --schedule.every=8 --checkpoint-every=20", stopped_by="KILL"
    ),
}


def options(variant: Variant) -> list[str]:
    return [*RUN.split(), *variant.options.split()]


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """All runs one after the other in one job, without the templates, beside the others."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    files = []
    for name, variant in VARIANTS.items():
        file = folder / f"{name}.txt"
        file.write_text("\n".join([*options(variant), f"--out={folder / name}"]))
        files.append(f"'{file}'")
    program = f"python {ROOT}/tests/mpi/several_runs.py {' '.join(files)}"
    said = folder / "said"
    wrap = f"srun --mpi=pmix {program}"
    words = [*TWO_NODES.split(), f"--output={said}", "--wrap", wrap]
    return Submitted(cluster, cluster.sbatch(*words, PYTHONPATH=MODULES), folder, said)


@pytest.fixture(scope="module")
def stopped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Submitted]:
    """All jobs, stopped in mid-run, back in the queue, and started again."""
    folder = tmp_path_factory.mktemp("stopped")
    hurry = folder / "hurry"
    jobs = {}
    for name, variant in VARIANTS.items():
        here(folder, name).mkdir()
        jobs[name] = submit(
            cluster,
            "digits_demo",
            folder / name.replace(" ", "-"),
            *options(variant),
            sbatch=TWO_NODES,
            LAUNCHER=variant.launcher,
            PYTHONPATH=MODULES,
            ARRIVES=f"{AT} {here(folder, name)}",
            SLOW_S=SLOW_S,
            HURRY=str(hurry),
        )
    starts: dict[str, int] = {}
    until(lambda: all_are_stopped(folder, jobs, starts), PATIENCE_S, "all jobs are stopped")
    for name, job in jobs.items():
        cluster.wait_for_requeue(job.number, starts[name])
    hurry.touch()
    for times in set(starts.values()):
        again = [job.number for name, job in jobs.items() if starts[name] == times]
        cluster.start_requeued(*again, times=times)
    return jobs


def here(folder: Path, name: str) -> Path:
    """Where the workers of a job say that they have come to step AT."""
    return folder / f"{name.replace(' ', '-')}-arrived"


def all_are_stopped(folder: Path, jobs: dict[str, Submitted], starts: dict[str, int]) -> bool:
    """Stop those whose workers have arrived, and note which start comes next; whether all have."""
    for name, job in jobs.items():
        if name in starts:
            continue
        known = job.cluster.job(job.number)
        assert known["JobState"] not in ("COMPLETED", "FAILED"), job.said.read_text()[-3000:]
        arrived = len([*here(folder, name).iterdir()]) == 2
        if arrived and stop(job, VARIANTS[name]):
            starts[name] = int(known["Restarts"]) + 1  # the first failed where MPI crashed
    return len(starts) == len(jobs)


def stop(job: Submitted, variant: Variant) -> bool:
    """Stop it, if that can be done already."""
    if variant.stopped_by == "USR2":  # what Slurm does before the time limit
        job.cluster.command("scancel", "--batch", "--signal=USR2", job.number)
        return True
    if last_complete(job.out) is None:
        return False
    os.kill(job.cluster.ranks(str(job.out))[0], signal.SIGKILL)
    return True


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_job_finishes_with_bitwise_the_same_parameters(
    name: str, uninterrupted: Submitted, stopped: dict[str, Submitted]
) -> None:
    uninterrupted.completed()
    job = stopped[name]
    said = job.completed()
    assert job.cluster.job(job.number)["Restarts"] == "1" or open_mpi_crashed(said)
    again, once = Trajectory(job.out), Trajectory(uninterrupted.out / name)
    assert again.status == "complete" and len(again.paths) == 2, said[-3000:]
    assert 0 < t0(again) < STEPS, "it was not stopped in mid-run"
    mine, theirs = (run.snapshot(STEPS, workers=True).workers for run in (again, once))
    assert mine is not None and np.array_equal(mine, theirs)
    np.testing.assert_array_equal(again.rounds.step_end, once.rounds.step_end)
    np.testing.assert_array_equal(again.series("train/loss").value, once.series("train/loss").value)


def t0(run: Trajectory) -> int:
    """The step at which the last segment begins."""
    return int(Trajectory(run.paths[-1], segments=False).attrs["t0"])


def test_the_long_round_was_left_in_its_middle(stopped: dict[str, Submitted]) -> None:
    stopped["qsr"].completed()
    run = Trajectory(stopped["qsr"].out)
    assert list(run.rounds.local_steps) == [STEPS] and 0 < t0(run) < STEPS
