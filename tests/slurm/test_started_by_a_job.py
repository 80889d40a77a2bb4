"""What jobs of `slurm/` start: scaling, sweeps, containers, and ranks by every launcher."""

from __future__ import annotations

import re
import shlex

import pytest
from stage import Stage


def test_nothing_of_the_package_runs_outside_the_container(stage: Stage) -> None:
    stage.site("CONTAINER=(contained)")
    crash = stage.run(ENDS_WITH="1")
    scaling = stage.run("scaling.sbatch", SLURM_JOB_NUM_NODES="2")
    for ended in (crash, scaling):
        assert "inside: python -m hpc_localsgd summary" in ended.told, ended
        assert "outside: python" not in ended.told, ended


def test_scaling_has_succeeded_when_its_runs_have(stage: Stage) -> None:
    ended = stage.run("scaling.sbatch", BROKEN="1")
    assert ended.told.count("hpc_localsgd.train") == 4 and ended.status == 0, ended


def test_scaling_has_a_worker_a_rank_and_its_own_length_whatever_the_recipe_says(
    stage: Stage,
) -> None:
    recipe = "benchmarks/configs/imagenet_postlocal.yaml"  # of 256 workers and 150 epochs
    ended = stage.run("scaling.sbatch", CONFIG=recipe, SLURM_JOB_NUM_NODES="2", BATCH="32")
    lines = ended.trainings
    assert lines and all(f"train --config {recipe} --steps 200 --epochs null" in e for e in lines)
    how = r"--nodes=(\d+) --ntasks=(\d+) .* --workers (\d+) --batch-per-worker (\d+) .*/(\S+-\d) "
    found = [re.search(how, line) for line in lines]
    assert [match and match.groups() for match in found] == [
        ("1", "2", "2", "16", "strong-1"),
        ("2", "4", "4", "8", "strong-2"),
        ("1", "2", "2", "8", "weak-1"),
        ("2", "4", "4", "8", "weak-2"),
    ], lines


def test_runs_of_a_sweep_with_other_common_options_have_folders_of_their_own(stage: Stage) -> None:
    def folders(*options: str, line: str = "--schedule every --schedule.steps 4") -> set[str]:
        (stage.folder / "sweep.txt").write_text(line)
        array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
        sweep = {"SWEEP": str(stage.folder / "sweep.txt")}
        assert stage.run("sweep.sbatch", *options, **array, **sweep).status == 0
        return {path.name for path in stage.out.iterdir()}

    (twenty,) = folders("--epochs", "20")
    assert twenty.startswith("schedule-every_schedule.steps-4_epochs-20-")
    assert len(folders("--epochs", "40")) == 2
    assert len(folders("--epochs", "20")) == 2  # that one again
    assert len(folders(line="--x 1")) == 3
    assert len(folders(line="--x -1")) == 4
    assert len(folders(line="--task.data " + "/long" * 100)) == 5


@pytest.mark.parametrize("named", [["--out={}"], ["--out", "{}"]])
def test_a_line_of_a_sweep_may_quote_words_and_name_its_folder(
    stage: Stage, named: list[str]
) -> None:
    words = ["--evaluate_every=10 steps", '--task.file=it\'s "a\\b"']
    words[1:1] = [word.format(stage.out / "it is") for word in named]
    (stage.folder / "sweep.txt").write_text(f"# two runs\n--x 1\n{shlex.join(words)}\n")
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    ended = stage.run("sweep.sbatch", **array, SWEEP=str(stage.folder / "sweep.txt"))
    assert ended.status == 0 and [path.name for path in stage.out.iterdir()] == ["it is"]
    assert f"{' '.join(words)} --out {stage.out / 'it is'} --resume auto" in ended.told, ended.told


def test_nodes_with_unequal_numbers_of_ranks(stage: Stage) -> None:
    assert "-np 4 -H n1:3,n2:1" in stage.run(LAUNCHER="horovodrun", SLURM_TASKS_PER_NODE="3,1").told


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_every_launcher_is_told_the_ranks(stage: Stage, launcher: str) -> None:
    told = stage.run(LAUNCHER=launcher).told
    ranks = {"srun": "--nodes=2 --ntasks=4", "mpirun": "-np 4", "horovodrun": "-np 4 -H n1:2,n2:2"}
    assert ranks[launcher] in told and told.startswith(launcher), told


def test_ranks_have_the_environment_of_the_job_whatever_sbatch_exported(stage: Stage) -> None:
    """After `sbatch --export=NONE`, or `--export=OUT=...`, srun would start them without it."""
    assert stage.run(SLURM_EXPORT_ENV="NONE").status == 0
    assert "SLURM_EXPORT_ENV" not in stage.variables()


@pytest.mark.parametrize(("launcher", "cpus"), [("srun", "8"), ("mpirun", ""), ("horovodrun", "")])
def test_the_cpus_of_a_task_bound_tasks_and_no_daemons(
    stage: Stage, launcher: str, cpus: str
) -> None:
    """srun would start the daemon of a node, and all ranks below it, on the CPUs of one task."""
    assert stage.run(LAUNCHER=launcher, SLURM_CPUS_PER_TASK="8").status == 0
    assert stage.variables().get("SRUN_CPUS_PER_TASK", "") == cpus


def test_an_unknown_launcher_is_refused(stage: Stage) -> None:
    ended = stage.run(LAUNCHER="mpiexec")
    assert ended.status == 2 and "give srun, mpirun or horovodrun" in ended.text
