"""A fault of the request under a launcher: one message for all ranks, and nothing hangs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Outcome, gloo, horovodrun, mpirun, train
from small_runs import files_below

SHORT = ["--steps=200", "--batch-per-worker=4", "--task.hidden=8"]
MPI = "--world=mpi"


def one_message(outcome: Outcome, said: str) -> None:
    assert outcome.status != 0
    assert outcome.text.count(said) == 1, outcome.text[-3000:]
    assert outcome.text.count("hpc_localsgd.train: ") == 1, outcome.text[-3000:]
    # horovodrun itself ends with a traceback when a rank fails; ours would show our files.
    assert "/hpc_localsgd/" not in outcome.text, outcome.text[-3000:]


@pytest.mark.parametrize(
    ("launcher", "options", "said"),
    [
        (lambda: mpirun(2), [MPI, "--algorithm=locl_sgd"], "did you mean 'local_sgd'?"),
        (lambda: mpirun(2), ["--world=simulated"], "mpirun started 2 processes"),
        (lambda: horovodrun(2), ["--batch-per-worker=800"], "--batch-per-worker 718 or less"),
        (lambda: gloo(2), ["--workers=1"], "1 workers cannot be placed on 2 ranks"),
    ],
    ids=["name", "world", "batch", "workers"],
)
def test_all_ranks_refuse_with_one_message(
    launcher: Callable[[], list[str]], options: list[str], said: str, tmp_path: Path
) -> None:
    one_message(train(launcher(), *SHORT, *options, f"--out={tmp_path / 'out'}"), said)
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("launcher", "world"),
    [(lambda: mpirun(2), MPI), (lambda: horovodrun(2), "--world=horovod")],
    ids=["mpirun", "horovodrun"],
)
def test_a_run_of_ranks_that_diverges_says_so_once(
    launcher: Callable[[], list[str]], world: str, tmp_path: Path
) -> None:
    diverging = ["--rate.lr=1e9", "--rate.warmup=0", world, f"--out={tmp_path}"]
    one_message(train(launcher(), *SHORT, *diverging), "is not finite in round")


def test_ranks_do_not_resume_a_record_that_only_rank_0_has_seen_is_broken(tmp_path: Path) -> None:
    (tmp_path / "trajectory.h5").write_bytes(b"precious")
    outcome = train(mpirun(2), *SHORT, MPI, "--resume", f"--out={tmp_path}")
    one_message(outcome, "cannot --resume: ")
    assert files_below(tmp_path) == {"trajectory.h5": b"precious"}
