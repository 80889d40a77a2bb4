"""The templates in a real Slurm: what they end in, and what they leave behind.

The jobs that mostly wait run beside the others, and are looked at last: `test_waiting_jobs`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import Cluster
from launching import until
from slurm_jobs import Submitted, open_mpi_crashed, submit
from waiting_jobs import ENDLESS, MODULES, TWO_RANKS

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

TINY = "--steps=30 --task.hidden=8 --figures=false".split()
SMALL = "--epochs=4 --figures=false".split()
SNAPSHOTS = ["--snapshot-every=100%"]
FEW = "--eigenvalues=1 --trace-probes=2 --samples=64 --direction-probes=2".split()


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """The demonstration as it is: two nodes, two ranks on each, the doctor first."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return submit(cluster, "digits_demo", out, *SMALL, *SNAPSHOTS, PREFLIGHT="1")


@pytest.fixture(scope="module", autouse=True)
def sharpness(demo: Submitted) -> Submitted:
    """Its sharpness, submitted while it runs."""
    out = demo.out.parent / "sharpness"
    depends = f"--dependency=afterok:{demo.number} --kill-on-invalid-dep=yes"
    how = f"--nodes=1 --ntasks-per-node=1 {depends}"
    return submit(demo.cluster, "sharpness", out, str(demo.out), *FEW, sbatch=how)


def test_the_doctor_of_the_demo_knows_the_nodes(demo: Submitted) -> None:
    nodes = demo.cluster.nodes
    demo.says(rf"ok +hosts +{nodes[0]} x 2, {nodes[1]} x 2")
    said = demo.said.read_text()
    assert f"2 node(s) {nodes[0][:-1]}[" in said or all(node in said for node in nodes), said


def test_the_demo_reaches_the_accuracy_of_the_local_run(demo: Submitted, tmp_path: Path) -> None:
    assert main([*SMALL, "--workers=4", f"--out={tmp_path}"]) == 0
    demo.completed()
    there, here = Trajectory(demo.out), Trajectory(tmp_path)
    assert there.K == here.K == 4 and "horovod" in there.attrs["world"]
    last = [run.series("eval/test/accuracy").value[-1] for run in (there, here)]
    assert last[0] == pytest.approx(last[1], abs=0.01) and last[0] > 0.9


def test_the_demo_says_what_it_did(demo: Submitted) -> None:
    said = demo.completed()
    for figure in ("steps", "rounds", "communication", "test accuracy"):
        assert re.search(rf"^{figure} +\d", said, re.MULTILINE), said


def test_sharpness_follows_by_dependency(sharpness: Submitted, demo: Submitted) -> None:
    sharpness.completed()
    assert (demo.out / "sharpness.h5").exists()


@pytest.mark.usefixtures("waiting")  # those are submitted when the demo is over
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
        PYTHONPATH=MODULES,
        ARRIVES=f"2 {tmp_path}",
    )
    until(lambda: all((tmp_path / worker).exists() for worker in "01"), 60, "it trains")
    cluster.command("scancel", job.number)
    state, said = job.ended()
    assert state == "CANCELLED", said
    assert any((job.out / "checkpoints").glob("step-*/rank-*")), said


@pytest.fixture(scope="module")
def swept(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that is over."""
    folder = tmp_path_factory.mktemp("swept")
    sweep(cluster, folder)
    return folder


def sweep(cluster: Cluster, folder: Path) -> None:
    """Submit a sweep of two runs and three tasks, and wait for it."""
    lines = [
        "# H",
        "--schedule every --schedule.steps 1",
        "",
        "--schedule every --schedule.steps 4",
    ]
    (folder / "sweep.txt").write_text("\n".join(lines))
    job = submit(
        cluster,
        "sweep",
        folder / "sweep",
        *TINY,
        "--workers=2",
        sbatch=f"--array=1-3 --ntasks-per-node=1 -o {folder}/said-%a",
        SWEEP=str(folder / "sweep.txt"),
    )
    for i in (1, 2, 3):
        assert cluster.wait(f"{job.number}_{i}") == "COMPLETED"


def test_a_sweep_has_a_task_for_each_of_its_runs(swept: Path) -> None:
    said = [(swept / f"said-{i}").read_text() for i in (1, 2, 3)]
    assert "done" in said[0] and "done" in said[1] and "no line 3" in said[2], said
    names = [run.name.split("_")[:2] for run in sorted((swept / "sweep").iterdir())]
    assert names == [["schedule-every", f"schedule.steps-{H}"] for H in (1, 4)]


def test_a_sweep_skips_what_is_finished(cluster: Cluster, swept: Path) -> None:
    sweep(cluster, swept)
    assert all("skipped: complete" in (swept / f"said-{i}").read_text() for i in (1, 2))
    assert all(len(Trajectory(run).paths) == 1 for run in (swept / "sweep").iterdir())


@pytest.fixture(scope="module")
def scaling(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Two of its runs; the others are there already."""
    out = tmp_path_factory.mktemp("scaling") / "run"
    for there, workers in (("strong-1", 1), ("weak-2", 2)):
        assert main([*TINY, f"--workers={workers}", f"--out={out / there}"]) == 0
    hidden = "--task.hidden=8"
    return submit(cluster, "scaling", out, hidden, sbatch=TWO_RANKS, STEPS="20", BATCH="8")


@pytest.mark.parametrize(("name", "ranks"), [("strong-2", 2), ("weak-1", 1)])
def test_scaling_runs_on_one_node_and_on_two(scaling: Submitted, name: str, ranks: int) -> None:
    scaling.says({"strong-2": "in .*/weak-1$", "weak-1": "in .*/weak-2$"}[name])  # the next begins
    run = Trajectory(scaling.out / name)
    assert run.status == "complete" and run.K == ranks
    assert (run.config["batch_per_worker"], run.config["steps"]) == (4, 20)


def test_scaling_tells_of_all_runs(scaling: Submitted) -> None:
    said = scaling.completed()
    assert said.count("skipped: complete already") == 2
    assert len(re.findall(r"(strong|weak)-\d +complete", said)) == 4, said
