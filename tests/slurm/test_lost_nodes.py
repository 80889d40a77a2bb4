"""What `slurm/elastic.sh` does in a job of --no-kill when a node has failed. No Slurm is needed."""

from __future__ import annotations

import signal

import pytest
from launching import until
from stage import Stage

EACH = {"SLURM_JOB_CPUS_PER_NODE": "2(x2)"}
UNEQUAL = {
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_NODELIST": "n1,n10,n11",
    "SLURM_NTASKS": "6",
    "SLURM_TASKS_PER_NODE": "3,1,2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2),8",
}


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_training_goes_on_on_the_nodes_that_are_left(stage: Stage, launcher: str) -> None:
    ended = stage.run("elastic.sbatch", CRASHES_FIRST="1", DEAD="n2", LAUNCHER=launcher, **EACH)
    first, again = ended.launchers
    ranks = {
        "srun": ("--nodes=2 --ntasks=4", "--nodes=1 --ntasks=2 --nodelist=n1"),
        "mpirun": ("-np 4", "-np 2"),
        "horovodrun": ("-np 4 -H n1:2,n2:2", "-np 2 -H n1:2"),
    }
    assert first.endswith(ranks[launcher][0]) and again.endswith(ranks[launcher][1]), ended
    assert ended.status == 0 and not ended.requeued, ended
    assert "status 139, and 1 of 2 nodes answer" in ended.text
    assert "on with 2 rank(s) on n1" in ended.text


def test_no_more_nodes_are_named_than_have_workers(stage: Stage) -> None:
    how = {"CRASHES_FIRST": "1", "DEAD": "n10", "WORKERS": "1"}
    first, again = stage.run("elastic.sbatch", **how, **UNEQUAL).launchers
    assert first.endswith("--nodes=1 --ntasks=1"), first
    assert again.endswith("--nodes=1 --ntasks=1 --nodelist=n1"), again


def test_the_workers_are_the_same_on_the_nodes_that_are_left(stage: Stage) -> None:
    ended = stage.run("elastic.sbatch", "--x=1", CRASHES_FIRST="1", DEAD="n1", WORKERS="8", **EACH)
    words = "-m hpc_localsgd.train --workers 32 --x=1 --workers 8 --out"
    first, again = ended.trainings
    assert words in first and first.partition(words)[2] == again.partition(words)[2], ended
    assert again.endswith("--resume auto") and "--nodelist=n2 " in again, ended


@pytest.mark.parametrize(
    ("dead", "left"), [("n10", "-np 5 -H n1:3,n11:2"), ("n1", "-np 3 -H n10:1,n11:2")]
)
def test_each_node_that_is_left_keeps_its_ranks(stage: Stage, dead: str, left: str) -> None:
    """One name is the beginning of another."""
    how = {"CRASHES_FIRST": "1", "LAUNCHER": "horovodrun", "DEAD": dead}
    ended = stage.run("elastic.sbatch", **how, **UNEQUAL)
    first, again = ended.launchers
    assert first.endswith("-np 6 -H n1:3,n10:1,n11:2") and again.endswith(left), ended


def test_slurm_s_variables_are_those_of_the_nodes_that_are_left(stage: Stage) -> None:
    """They are what mpirun goes by."""
    names = "JOB_NODELIST NODELIST JOB_NUM_NODES NNODES TASKS_PER_NODE NTASKS NPROCS"
    shown = " ".join(f"$SLURM_{name}" for name in [*names.split(), "JOB_CPUS_PER_NODE"])
    (stage.folder / "script").write_text(
        f'source slurm/job.sh\nsource slurm/elastic.sh\nonly_on n11 n1\necho "$left is {shown}"\n'
    )
    assert stage.run(**UNEQUAL).text == "n1,n11 is n1,n11 n1,n11 2 2 3,2 5 5 4,8\n"


def test_a_node_that_does_not_answer_has_failed(stage: Stage) -> None:
    how = {"CRASHES_FIRST": "1", "ANSWER": "1"}
    ended = stage.run("elastic.sbatch", **how, SILENT="n2", **EACH)
    assert "status 139, and 1 of 2 nodes answer" in ended.text and len(ended.launchers) == 2, ended


@pytest.mark.parametrize(("state", "times"), [("COMPLETING", 1), ("", 2)])
def test_a_job_that_is_being_cancelled_is_not_started_again(
    stage: Stage, state: str, times: int
) -> None:
    how = {"CRASHES_FIRST": "1", "DEAD": "n2", "STATE": state}
    ended = stage.run("elastic.sbatch", **how, **EACH)
    assert len(ended.launchers) == times and not ended.requeued, ended


def test_nodes_that_are_left_and_fail_again_are_no_fewer(stage: Stage) -> None:
    ended = stage.run("elastic.sbatch", ENDS_WITH="1", DEAD="n10", **UNEQUAL)
    assert len(ended.launchers) == 2 and ended.requeued, ended


def test_what_fails_on_nodes_that_are_well_goes_back_into_the_queue(stage: Stage) -> None:
    ended = stage.run("elastic.sbatch", ENDS_WITH="1", **EACH)
    assert len(ended.launchers) == 1 and ended.requeued, ended


@pytest.mark.parametrize("status", ["0", "2", "3", "87"])
def test_what_would_end_so_again_is_not_started_again(stage: Stage, status: str) -> None:
    ended = stage.run("elastic.sbatch", ENDS_WITH=status, DEAD="n2", **EACH)
    assert len(ended.launchers) == 1 and not ended.requeued, ended


def test_ranks_that_slurm_ended_with_the_node_have_not_been_stopped(stage: Stage) -> None:
    """It sends them SIGTERM as a user might: they write shards, and end with 85."""
    ended = stage.run("elastic.sbatch", ENDS_WITH="85", DEAD="n2", **EACH)
    assert len(ended.launchers) == 2 and ended.requeued, ended  # all that are left answer


@pytest.mark.parametrize("dead", ["n2", "n1 n2"])
def test_with_fewer_nodes_than_asked_it_goes_back_into_the_queue(stage: Stage, dead: str) -> None:
    least = {"LEAST": "2"} if dead == "n2" else {}
    ended = stage.run("elastic.sbatch", ENDS_WITH="86", DEAD=dead, **least, **EACH)
    assert len(ended.launchers) == 1 and ended.requeued, ended


def test_a_job_that_is_stopped_is_not_started_on_fewer_nodes(stage: Stage) -> None:
    job = stage.start("elastic.sbatch", FOREVER="1", DEAD="n2", **EACH)
    until(lambda: "hpc_localsgd.train" in stage.told.read_text(), 20, "it trains")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert len(ended.launchers) == 1 and ended.requeued, ended
