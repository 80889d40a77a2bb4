"""Jobs that are stopped in mid-run, requeue themselves and finish: bitwise the uninterrupted run.

They run beside each other, and each test waits for its own.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cluster import OVER, Cluster
from launching import ROOT, until
from slurm_jobs import Submitted, open_mpi_crashed, submit
from waiting_jobs import MODULES, TWO_RANKS

from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.trajectory import Trajectory

STEPS = 200
RUN = "--task=slow_digits.slow_digits --task.hidden=8 --batch-per-worker=4 --figures=false "
RUN += f"--steps={STEPS} --rate.warmup=0 --evaluate-every=50% --spread-every=0 "
RUN += "--snapshot-every=100% --snapshot-workers --task.step-s=0"
AT, SLOW_S = 75, "1"  # where a run is stopped, from where on it is slow until that is done
PATIENCE_S = 240


@dataclass(frozen=True)
class Variant:
    """A run and how its job is started and stopped."""

    options: str
    launcher: str = "srun"
    stopped_by: str = "USR2"


VARIANTS = {
    "overlap": Variant("--algorithm=overlap --schedule=every --schedule.steps=20", "horovodrun"),
    # One round, as long as the run.
    "qsr": Variant("--schedule=qsr --schedule.alpha=100"),
    "gossip": Variant("--algorithm=gossip --schedule=every --schedule.steps=8", "mpirun"),
    "a rank killed": Variant(
        "--schedule.switch=0 --schedule.every=8 --checkpoint-every=20", stopped_by="KILL"
    ),
}


def options(variant: Variant) -> list[str]:
    return [*RUN.split(), *variant.options.split()]


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """All runs one after the other in one job, without the templates."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    files = []
    for name, variant in VARIANTS.items():
        file = folder / f"{name}.txt"
        file.write_text("\n".join([*options(variant), f"--out={folder / name}"]))
        files.append(f"'{file}'")
    program = f"python {ROOT}/tests/mpi/several_runs.py {' '.join(files)}"
    said = folder / "said"
    wrap = f"srun --mpi=pmix {program}"
    words = [*TWO_RANKS.split(), f"--output={said}", "--wrap", wrap]
    return Submitted(cluster, cluster.sbatch(*words, PYTHONPATH=MODULES), folder, said)


class Stopped:
    """Jobs that are stopped in mid-run, go back into the queue, and are started again."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        self._jobs: dict[str, Submitted] = {}
        self._starts: dict[str, int] = {}  # which of a job comes next, once it is stopped
        self._back: set[str] = set()

    def stop(self, name: str) -> Submitted:
        """Wait until a job has come to step AT, and stop it."""
        job = self._submitted(name)
        until(lambda: self._look(name), PATIENCE_S, "the job is stopped")
        return job

    def back(self, name: str) -> Submitted:
        """Wait until it is in the queue again, and start it."""
        job = self.stop(name)
        for following in [*VARIANTS][[*VARIANTS].index(name) + 1 :][:1]:
            self._submitted(following)  # its ranks start meanwhile
        if name not in self._back:
            self._cluster.wait_for_requeue(job.number, self._starts[name])
            self._hurry(name).touch()
            self._cluster.start_requeued(job.number, times=self._starts[name])
            self._back.add(name)
        return job

    def _submitted(self, name: str) -> Submitted:
        if name not in self._jobs:
            self._jobs[name] = self._submit(name)
        return self._jobs[name]

    def _submit(self, name: str) -> Submitted:
        variant = VARIANTS[name]
        self._here(name).mkdir()
        return submit(
            self._cluster,
            "digits_demo",
            self._folder / name.replace(" ", "-"),
            *options(variant),
            sbatch=TWO_RANKS,
            LAUNCHER=variant.launcher,
            PYTHONPATH=MODULES,
            ARRIVES=f"{AT} {self._here(name)}",
            SLOW_S=SLOW_S,
            HURRY=str(self._hurry(name)),
        )

    def _here(self, name: str) -> Path:
        """Where the workers of a job say that they have come to step AT."""
        return self._folder / f"{name.replace(' ', '-')}-arrived"

    def _hurry(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}-hurry"

    def _look(self, name: str) -> bool:
        """Stop all whose workers have arrived; whether this one has been."""
        for each, job in self._jobs.items():
            if each in self._starts:
                continue
            state, restarts = self._cluster.state(job.number)
            assert state not in OVER, job.said.read_text()[-3000:]
            arrived = len([*self._here(each).iterdir()]) == 2
            if arrived and stop(job, VARIANTS[each]):
                self._starts[each] = restarts + 1  # the first failed where MPI crashed
        return name in self._starts


@pytest.fixture(scope="module")
def stopped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(cluster, tmp_path_factory.mktemp("stopped"))


def stop(job: Submitted, variant: Variant) -> bool:
    """Stop it, if that can be done already."""
    if variant.stopped_by == "USR2":  # what Slurm does before the time limit
        job.cluster.command("scancel", "--batch", "--signal=USR2", job.number)
        return True
    if last_complete(job.out) is None:
        return False
    os.kill(job.cluster.ranks(str(job.out))[0], signal.SIGKILL)
    return True


@pytest.mark.parametrize("then", ["is stopped", "goes back into the queue"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_job_in_mid_run(
    name: str, then: str, stopped: Stopped, request: pytest.FixtureRequest
) -> None:
    """The first of the two waits for its ranks, the second for its end."""
    if name == [*VARIANTS][-1]:
        request.getfixturevalue("uninterrupted")  # is submitted beside the last
    if then == "is stopped":
        stopped.stop(name)
        return
    said = stopped.back(name).said.read_text()
    how = "stopped on request" if VARIANTS[name].stopped_by == "USR2" else "failed with status"
    assert how in said and "back into the queue" in said, said[-3000:]


def test_the_same_runs_complete_without_a_stop(uninterrupted: Submitted) -> None:
    uninterrupted.completed()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_job_finishes_with_bitwise_the_same_parameters(
    name: str, uninterrupted: Submitted, stopped: Stopped
) -> None:
    job = stopped.back(name)
    uninterrupted.completed()
    said = job.completed()
    assert job.cluster.state(job.number)[1] == 1 or open_mpi_crashed(said)
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


def test_the_long_round_was_left_in_its_middle(stopped: Stopped) -> None:
    job = stopped.back("qsr")
    job.completed()
    run = Trajectory(job.out)
    assert list(run.rounds.local_steps) == [STEPS] and 0 < t0(run) < STEPS
