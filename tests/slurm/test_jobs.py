"""The templates in a real Slurm: what they end in, and what they leave behind.

The jobs that mostly wait (to hang, to be requeued) run from the first test on, beside the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster
from launching import ROOT, steps_of_ranks, until
from slurm_jobs import Submitted, open_mpi_crashed, submit

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

TINY = "--steps=30 --task.hidden=8 --figures=false".split()
TWO_RANKS = "--nodes=2 --ntasks-per-node=1"
SMALL = "--epochs=8 --figures=false".split()
HANGING = "--task=hanging_digits.hanging_digits --task.at=42 --task.hidden=8 --steps=100 "
HANGING += "--schedule.switch=0 --schedule.every=4 --checkpoint-every=40 --figures=false"
ENDLESS = "--task=slow_digits.slow_digits --task.step-s=0.5 --task.hidden=8 --steps=10000000 "
ENDLESS += "--evaluate-every=0 --spread-every=0 --figures=false"
MODULES = [ROOT, ROOT / "tests" / "slurm", ROOT / "tests" / "mpi"]  # ours, and those of tasks


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """The demonstration as it is: two nodes, two ranks on each, the doctor first."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return submit(cluster, "digits_demo", out, *SMALL, PREFLIGHT="1")


@dataclass(frozen=True)
class Requeued:
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


@pytest.fixture(scope="module", autouse=True)
def requeued(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Requeued]]:
    """A job that always fails, one whose every start hangs, and one that has a time limit."""
    folder = tmp_path_factory.mktemp("requeued")
    broken = folder / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    fails = submit(
        cluster, "digits_demo", folder / "fails", PYTHON=str(broken), CRASHES="2", SITE="default"
    )
    hangs = submit(
        cluster,
        "digits_demo",
        folder / "hangs",
        *HANGING.split(),
        "--watchdog=15 seconds",  # a start may take longer: see the task
        sbatch=TWO_RANKS,
        CRASHES="2",
        LAUNCHER="mpirun",
        PYTHONPATH=":".join(map(str, MODULES)),
    )
    limited = submit(
        cluster,
        "digits_demo",
        folder / "limited",
        *ENDLESS.split(),
        sbatch=f"{TWO_RANKS} --time=300 --signal=B:USR2@60",
        PYTHONPATH=":".join(map(str, MODULES)),
    )
    with ThreadPoolExecutor() as threads:
        yield {
            "fails": Requeued(fails, threads.submit(cluster.start_until_over, fails.number)),
            "hangs": Requeued(hangs, threads.submit(cluster.start_until_over, hangs.number)),
            "limited": Requeued(limited, threads.submit(reach_the_limit, limited)),
        }


def reach_the_limit(job: Submitted) -> None:
    """Give a job a time limit when it trains, so that it does so before Slurm's signal."""
    until(lambda: [step > 0 for step in steps_of_ranks(job.out)] == [True] * 2, 200, "it trains")
    job.cluster.limit(job.number, more_min=2)
    job.cluster.wait_for_requeue(job.number, timeout_s=200)
    job.cluster.command("scancel", job.number)


def test_the_demo_reaches_the_accuracy_of_the_local_run(demo: Submitted, tmp_path: Path) -> None:
    assert main([*SMALL, "--workers=4", f"--out={tmp_path}"]) == 0
    demo.completed()
    there, here = Trajectory(demo.out), Trajectory(tmp_path)
    assert there.K == here.K == 4 and "horovod" in there.attrs["world"]
    last = [run.series("eval/test/accuracy").value[-1] for run in (there, here)]
    assert last[0] == pytest.approx(last[1], abs=0.01) and last[0] > 0.9


def test_the_demo_says_what_it_did(demo: Submitted) -> None:
    said = demo.completed()
    nodes = demo.cluster.nodes
    assert f"2 node(s) {nodes[0][:-1]}[" in said or all(node in said for node in nodes), said
    assert re.search(rf"ok +hosts +{nodes[0]} x 2, {nodes[1]} x 2", said), said  # the doctor
    for figure in ("steps", "rounds", "communication", "test accuracy"):
        assert re.search(rf"^{figure} +\d", said, re.MULTILINE), said


def test_a_refused_configuration_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, "digits_demo", tmp_path / "run", "--algorithm=slowmoo", sbatch=TWO_RANKS)
    state, said = job.ended()
    assert state == "FAILED" and cluster.job(job.number)["ExitCode"] == "2:0", said
    assert "did you mean 'slowmo'" in said
    assert cluster.job(job.number)["Restarts"] == "0" or open_mpi_crashed(said)


def test_a_cancelled_job_stays_cancelled_and_can_be_resumed(
    cluster: Cluster, tmp_path: Path
) -> None:
    job = submit(
        cluster,
        "digits_demo",
        tmp_path / "run",
        *ENDLESS.split(),
        sbatch="--nodes=1 --ntasks-per-node=2",
        PYTHONPATH=":".join(map(str, MODULES)),
    )
    until(lambda: any(steps_of_ranks(job.out)), 60, "it trains")
    cluster.command("scancel", job.number)
    state, said = job.ended()
    assert state == "CANCELLED", said
    assert any((job.out / "checkpoints").glob("step-*/rank-*")), said


def test_a_sweep_skips_what_is_finished(cluster: Cluster, tmp_path: Path) -> None:
    lines = [
        "# H",
        "--schedule every --schedule.steps 1",
        "",
        "--schedule every --schedule.steps 4",
    ]
    (tmp_path / "sweep.txt").write_text("\n".join(lines))
    variables = {"SWEEP": str(tmp_path / "sweep.txt")}
    array = "--array=1-3 --ntasks-per-node=1"

    def sweep() -> dict[int, str]:
        out = tmp_path / "sweep"
        said = tmp_path / "said-%a"
        job = submit(
            cluster,
            "sweep",
            out,
            *TINY,
            "--workers=2",
            sbatch=f"{array} -o {said}",
            **variables,
        )
        for i in (1, 2, 3):
            assert cluster.wait(f"{job.number}_{i}") == "COMPLETED"
        return {i: (tmp_path / f"said-{i}").read_text() for i in (1, 2, 3)}

    first = sweep()
    assert "done" in first[1] and "done" in first[2] and "no line 3" in first[3]
    runs = sorted((tmp_path / "sweep").iterdir())
    names = [run.name.split("_")[:2] for run in runs]
    assert names == [["schedule-every", f"schedule.steps-{H}"] for H in (1, 4)]
    second = sweep()
    assert "skipped: complete" in second[1] and "skipped: complete" in second[2]
    assert all(len(Trajectory(run).paths) == 1 for run in runs)


def test_scaling_runs_on_one_node_and_on_two(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(
        cluster,
        "scaling",
        tmp_path / "scaling",
        "--task.hidden=8",
        sbatch=TWO_RANKS,
        STEPS="20",
        BATCH="8",
    )
    said = job.completed()
    runs = {path.name: Trajectory(path) for path in job.out.glob("*-*")}
    assert {name: run.K for name, run in runs.items()} == {
        "strong-1": 1,
        "strong-2": 2,
        "weak-1": 1,
        "weak-2": 2,
    }
    batches = {name: run.config["batch_per_worker"] for name, run in runs.items()}
    assert batches == {"strong-1": 8, "strong-2": 4, "weak-1": 4, "weak-2": 4}
    assert len(re.findall(r"(strong|weak)-\d +complete", said)) == 4, said


def test_sharpness_follows_by_dependency(cluster: Cluster, tmp_path: Path) -> None:
    one = "--nodes=1 --ntasks-per-node=1"
    snapshots = "--snapshot-every=15"
    run = submit(cluster, "digits_demo", tmp_path / "run", *TINY, snapshots, sbatch=one)
    depends = f"{one} --dependency=afterok:{run.number} --kill-on-invalid-dep=yes"
    few = "--eigenvalues=1 --trace-probes=2 --samples=64 --direction-probes=2".split()
    job = submit(cluster, "sharpness", tmp_path / "sharpness", str(run.out), *few, sbatch=depends)
    run.completed()
    job.completed()
    assert (run.out / "sharpness.h5").exists()


def test_a_job_that_always_fails_gives_up(requeued: dict[str, Requeued]) -> None:
    said, job = requeued["fails"].failed(), requeued["fails"].job
    assert job.cluster.job(job.number)["Restarts"] == "1", said
    assert "failed 2 times without progress: giving up" in said


def test_a_job_that_hangs_at_the_same_step_each_time_gives_up(
    requeued: dict[str, Requeued],
) -> None:
    """Though each time it gets to that step, hangs there, and writes shards before it ends.

    Those of step 42 count where both ranks had the time to write theirs.
    """
    said, job = requeued["hangs"].failed(), requeued["hangs"].job
    began = [t0(path) for path in Trajectory(job.out).paths]
    assert job.cluster.job(job.number)["Restarts"] == str(len(began) - 1), (began, said)
    assert began in ([0, 40, 40], [0, 40, 42, 42], [0, 42, 42]), (began, said)
    assert "failed 2 times without progress: giving up" in said


def test_the_time_limit_of_slurm_stops_a_job(requeued: dict[str, Requeued]) -> None:
    """The real thing: a limit of some minutes, and the signal one minute before it."""
    requeued["limited"].over.result()
    job = requeued["limited"].job
    said = job.said.read_text()
    assert "stopped on request; back into the queue" in said, said[-3000:]
    assert any((job.out / "checkpoints").glob("step-*"))


def t0(path: Path) -> int:
    """The step at which a segment begins."""
    return int(Trajectory(path, segments=False).attrs["t0"])
