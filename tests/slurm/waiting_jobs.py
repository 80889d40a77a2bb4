"""Jobs that mostly wait, to hang or to be requeued: they run beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hanging_digits
import pytest
from cluster import Cluster
from launching import ROOT, until
from slurm_jobs import Submitted, submit

from hpc_localsgd.train import main

TWO_RANKS = "--nodes=2 --ntasks-per-node=1"
AT = 42  # where it hangs; a checkpoint is made there, so that every start begins there
HANGING = f"--task=hanging_digits.hanging_digits --task.at={AT} --task.hidden=8 --steps=100 "
HANGING += "--workers=2 --schedule.switch=0 --schedule.every=6 --figures=false "
HANGING += f"--checkpoint-every={AT} --evaluate-every=0 --spread-every=0"
ENDLESS = "--task=slow_digits.slow_digits --task.step-s=0.5 --task.hidden=8 --steps=10000000 "
ENDLESS += "--evaluate-every=0 --spread-every=0 --figures=false"
FOLDERS = [ROOT, ROOT / "tests" / "slurm", ROOT / "tests" / "mpi"]  # ours, and those of tasks
MODULES = ":".join(map(str, FOLDERS))


@dataclass(frozen=True)
class Waiting:
    """A job that goes back into the queue.

    Attributes:
        job: The job.
        over: Done when there is nothing more to wait for; has the error if that does not come.
    """

    job: Submitted
    over: Future[None]

    def failed(self) -> str:
        """Return what it said; fails the test when it did not end as failed."""
        self.over.result()
        state, said = self.job.ended()
        assert state == "FAILED", f"{state}\n{said[-3000:]}"
        return said


@contextmanager
def submitted(cluster: Cluster, folder: Path) -> Iterator[dict[str, Waiting]]:
    """Submit one that always fails, one whose every start hangs, and one with a time limit."""
    broken = folder / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    fails = submit(
        cluster, "digits_demo", folder / "fails", PYTHON=str(broken), CRASHES="2", SITE="default"
    )
    hangs = submit_hanging(cluster, folder / "hangs")
    limited = submit(
        cluster,
        "digits_demo",
        folder / "limited",
        *ENDLESS.split(),
        sbatch="--nodes=1 --ntasks-per-node=1 --time=300 --signal=B:USR2@60",
        PYTHONPATH=MODULES,
        ARRIVES=f"2 {folder}",
    )
    with ThreadPoolExecutor() as threads:
        yield {
            "fails": Waiting(fails, threads.submit(cluster.start_until_over, fails.number)),
            "hangs": Waiting(hangs, threads.submit(cluster.start_until_over, hangs.number)),
            "limited": Waiting(limited, threads.submit(reach_the_limit, limited)),
        }


def submit_hanging(cluster: Cluster, out: Path) -> Submitted:
    """Submit the job that hangs, behind a run that was killed in the step where it will."""

    def killed(_: float) -> None:
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hanging_digits, "sleep", killed)
        with pytest.raises(SystemExit):
            main([*HANGING.split(), f"--out={out}"])
    return submit(
        cluster,
        "digits_demo",
        out,
        *HANGING.split(),
        "--watchdog=6 seconds",  # a start may take longer: see the task
        sbatch=TWO_RANKS,
        CRASHES="2",
        LAUNCHER="mpirun",
        PYTHONPATH=MODULES,
    )


def reach_the_limit(job: Submitted) -> None:
    """Give a job a time limit when it trains, so that it does so before Slurm's signal."""
    until((job.out.parent / "0").exists, 200, "it trains")
    job.cluster.limit(job.number, more_min=2)
    job.cluster.wait_for_requeue(job.number, timeout_s=200)
    job.cluster.command("scancel", job.number)
