"""How many ranks a job of a range of nodes has, where Slurm counted none. No Slurm is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stage import Stage

from hpc_localsgd.train import main

# What 22.05 says to a job of --nodes=1-3 --mincpus=4 that got two nodes.
UNCOUNTED = {
    "SLURM_NTASKS": "",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
}


@pytest.mark.parametrize("per_node", ["2", "4"])
@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_the_ranks_are_those_of_every_node(stage: Stage, launcher: str, per_node: str) -> None:
    how = {"LAUNCHER": launcher, "TASKS_PER_NODE": per_node}
    ended = stage.run("elastic.sbatch", **how, **UNCOUNTED)
    ranks = 2 * int(per_node)
    words = {
        "srun": f"--ntasks-per-node={per_node} --nodes=2 --ntasks={ranks}",
        "mpirun": f"-np {ranks}",
        "horovodrun": f"-np {ranks} -H n1:{per_node},n2:{per_node}",
    }
    (first,) = ended.launchers
    assert first.endswith(words[launcher]) and ended.status == 0, ended
    assert f"2 node(s) n[1-2], {ranks} rank(s)" in ended.text


def test_those_of_a_node_that_fails_are_gone(stage: Stage) -> None:
    how = {"CRASHES_FIRST": "1", "DEAD": "n2", "TASKS_PER_NODE": "2"}
    _, again = stage.run("elastic.sbatch", **how, **UNCOUNTED).launchers
    assert again.endswith("--ntasks-per-node=2 --nodes=1 --ntasks=2 --nodelist=n1"), again


@pytest.mark.parametrize(
    ("threads", "cpus", "each"), [("", "8(x2)", "4"), ("", "9,12", "4"), ("3", "8(x2)", "3")]
)
def test_each_rank_has_its_share_of_the_smallest_node(
    stage: Stage, threads: str, cpus: str, each: str
) -> None:
    known = {**UNCOUNTED, "SLURM_JOB_CPUS_PER_NODE": cpus, "TASKS_PER_NODE": "2"}
    stage.run("elastic.sbatch", SLURM_CPUS_PER_TASK=threads, **known)
    kept = (stage.out / "slurm" / "environment-7.txt").read_text().splitlines()
    assert f"SRUN_CPUS_PER_TASK={each}" in kept
    named = ("NTASKS=4", "NPROCS=4", "TASKS_PER_NODE=2\\(x2\\)", "NTASKS_PER_NODE=2")
    assert {f"SLURM_{name}" for name in named} <= set(kept)


def test_what_slurm_counted_stays(stage: Stage) -> None:
    (first,) = stage.run("elastic.sbatch", TASKS_PER_NODE="1").launchers
    assert "--ntasks-per-node" not in first and first.endswith("--nodes=2 --ntasks=4"), first


def test_a_count_of_the_job_it_was_submitted_in_does_not(stage: Stage) -> None:
    inside = {**UNCOUNTED, "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    (first,) = stage.run("elastic.sbatch", **inside).launchers
    assert first.endswith("--ntasks-per-node=4 --nodes=2 --ntasks=8"), first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"TASKS_PER_NODE": "four"}, "TASKS_PER_NODE=four: give the number of ranks on each node"),
        ({"TASKS_PER_NODE": "0"}, "TASKS_PER_NODE=0: give the number of ranks on each node"),
        (
            {"SLURM_JOB_CPUS_PER_NODE": "8,3"},
            "4 rank(s) of 1 CPU(s) on each node, and one has 3: submit with --mincpus=4",
        ),
        (
            {"SLURM_CPUS_PER_TASK": "2"},
            "4 rank(s) of 2 CPU(s) on each node, and one has 4: submit with --mincpus=8",
        ),
    ],
)
def test_what_cannot_be_is_refused(stage: Stage, given: dict[str, str], said: str) -> None:
    ended = stage.run("elastic.sbatch", **{**UNCOUNTED, **given})
    assert ended.status == 2 and said in ended.text and not ended.told, ended


@pytest.mark.parametrize("said", ["WORKERS", "CONFIGURED"])
@pytest.mark.parametrize(
    ("launcher", "workers", "words"),
    [
        ("srun", "6", "--nodes=2 --ntasks=6"),
        ("srun", "1", "--nodes=1 --ntasks=1"),
        ("mpirun", "6", "-np 6"),
        ("horovodrun", "6", "-np 6 -H n1:4,n2:4"),
    ],
)
def test_ranks_beyond_the_workers_are_not_started(
    stage: Stage, launcher: str, workers: str, words: str, said: str
) -> None:
    how = {"LAUNCHER": launcher, said: workers}
    ended = stage.run("elastic.sbatch", **how, **UNCOUNTED)
    (first,) = ended.launchers
    assert first.endswith(f" {words}"), ended
    about = f"{workers} worker(s): {workers} of 8 ranks train, and the others stay idle"
    assert about in ended.text and ended.status == 0, ended


@pytest.mark.parametrize("said", ["8", "32", "null", "none"])
def test_other_workers_leave_the_ranks_as_they_are(stage: Stage, said: str) -> None:
    ended = stage.run("elastic.sbatch", CONFIGURED=said, **UNCOUNTED)
    (first,) = ended.launchers
    assert first.endswith("--nodes=2 --ntasks=8") and "idle" not in ended.text, ended


def test_a_recipe_says_how_many_workers_there_are(stage: Stage) -> None:
    """Python reads it, as the training would."""
    recipe = stage.folder / "recipe.yaml"
    recipe.write_text("workers: 5\n")
    stage.site(f"PYTHON={sys.executable}")
    launched = stage.run("elastic.sbatch", "--config", str(recipe), **UNCOUNTED).told
    assert "--nodes=2 --ntasks=5 " in launched, launched


def test_the_words_behind_the_script_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("workers: 5\n")
    words = ["--workers=32", f"--config={tmp_path}/recipe.yaml", "--workers=6"]
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])  # what the job asks
    assert "\nworkers: 6\n" in capsys.readouterr().out


def test_nor_on_the_nodes_that_are_left(stage: Stage) -> None:
    how = {"CRASHES_FIRST": "1", "DEAD": "n2", "WORKERS": "3"}
    first, again = stage.run("elastic.sbatch", **how, **UNCOUNTED).launchers
    assert first.endswith("--nodes=2 --ntasks=3"), first
    assert again.endswith("--nodes=1 --ntasks=3 --nodelist=n1"), again
