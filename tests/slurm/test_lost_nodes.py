"""What `slurm/job.sh` does in a job of --no-kill when a node has failed. No Slurm is needed."""

from __future__ import annotations

import signal

import pytest
from launching import until
from stage import Ended, Stage

EACH = {"SLURM_JOB_CPUS_PER_NODE": "2(x2)"}


def starts(ended: Ended) -> list[str]:
    """How the training was started, each time."""
    lines = ended.told.splitlines()
    return [line.partition(" python ")[0] for line in lines if "hpc_localsgd.train" in line]


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_training_goes_on_on_the_nodes_that_are_left(stage: Stage, launcher: str) -> None:
    ended = stage.run("elastic.sbatch", CRASHES_FIRST="1", DEAD="n2", LAUNCHER=launcher, **EACH)
    first, again = starts(ended)
    ranks = {
        "srun": ("--nodes=2 --ntasks=4", "--nodes=1 --ntasks=2 --nodelist=n1"),
        "mpirun": ("-np 4", "-np 2"),
        "horovodrun": ("-np 4 -H n1:2,n2:2", "-np 2 -H n1:2"),
    }
    assert first.endswith(ranks[launcher][0]) and again.endswith(ranks[launcher][1]), ended
    assert ended.status == 0 and not ended.requeued, ended
    assert "status 139, and 1 of 2 nodes answer" in ended.text
    assert "on with 2 rank(s) on n1" in ended.text


def test_what_fails_on_nodes_that_are_well_goes_back_into_the_queue(stage: Stage) -> None:
    ended = stage.run("elastic.sbatch", ENDS_WITH="1", **EACH)
    assert len(starts(ended)) == 1 and ended.requeued, ended


@pytest.mark.parametrize("status", ["0", "2", "3", "87"])
def test_what_would_end_so_again_is_not_started_again(stage: Stage, status: str) -> None:
    ended = stage.run("elastic.sbatch", ENDS_WITH=status, DEAD="n2", **EACH)
    assert len(starts(ended)) == 1 and not ended.requeued, ended


def test_ranks_that_slurm_ended_with_the_node_have_not_been_stopped(stage: Stage) -> None:
    """It sends them SIGTERM as a user might: they write shards, and end with 85."""
    ended = stage.run("elastic.sbatch", ENDS_WITH="85", DEAD="n2", **EACH)
    assert len(starts(ended)) == 2 and ended.requeued, ended  # all that are left answer


@pytest.mark.parametrize("dead", ["n2", "n1 n2"])
def test_with_fewer_nodes_than_asked_it_goes_back_into_the_queue(stage: Stage, dead: str) -> None:
    least = {"LEAST": "2"} if dead == "n2" else {}
    ended = stage.run("elastic.sbatch", ENDS_WITH="86", DEAD=dead, **least, **EACH)
    assert len(starts(ended)) == 1 and ended.requeued, ended


def test_a_job_that_is_stopped_is_not_started_on_fewer_nodes(stage: Stage) -> None:
    job = stage.start("elastic.sbatch", FOREVER="1", DEAD="n2", **EACH)
    until(lambda: "hpc_localsgd.train" in stage.told.read_text(), 20, "it trains")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert len(starts(ended)) == 1 and ended.requeued, ended
