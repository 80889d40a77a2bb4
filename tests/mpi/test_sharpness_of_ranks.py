"""Ranks that share the samples measure the same sharpness as one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launching import alone, horovodrun, mpirun, run

from hpc_localsgd.commands.sharpness import main
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

OPTIONS = ["--samples=48", "--eigenvalues=2", "--dtype=float64", "--direction-probes=2"]
OPTIONS += ["--trace-probes=10", "--density-steps=5", "--density-probes=2", "--steps=last"]
OPTIONS += ["--ggn", "--fisher", "--noise", "--eigenvectors"]
COMMAND = ["-m", "hpc_localsgd", "sharpness"]
CONV = ["--task.model=conv", "--task.norm=batch", "--task.hidden=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with BatchNorm, whose statistics the ranks re-estimate together."""
    return trained_by(2, tmp_path_factory.mktemp("trained") / "run", *CONV)


def trained_by(workers: int, out: Path, *task: str) -> Path:
    """A run with a snapshot at its end, and its sharpness by one process."""
    length = [f"--workers={workers}", "--schedule=every", "--schedule.steps=8", "--steps=12"]
    kept = ["--snapshot-every=12", "--snapshot-workers", "--figures=false", f"--out={out}"]
    assert train([*task, *length, *kept]) == 0
    assert main([str(out), *OPTIONS, "--density"]) == 0
    return out


@pytest.mark.parametrize("launch", [lambda: mpirun(2), lambda: horovodrun(2)], ids=["mpi", "hvd"])
def test_two_ranks_give_the_same_numbers(trained: Path, tmp_path: Path, launch) -> None:  # type: ignore[no-untyped-def]
    launcher, out = launch(), tmp_path / "two.h5"
    world = "mpi" if "mpirun" in launcher[0] else "horovod"
    more = ["--density", f"--out={out}", f"--world={world}"]
    said = run(launcher, [*COMMAND, str(trained), *OPTIONS, *more]).succeeded()
    assert said.stdout.count("three largest eigenvalues") == 1
    assert_same(Trajectory(trained / "sharpness.h5"), Trajectory(out))


@pytest.mark.parametrize("workers", [1, 4])
def test_runs_of_one_and_of_four_workers_are_the_same_on_two_ranks(
    tmp_path: Path, workers: int
) -> None:
    trained, out = trained_by(workers, tmp_path / "run", "--task.hidden=3"), tmp_path / "two.h5"
    run(
        mpirun(2), [*COMMAND, str(trained), *OPTIONS, "--density", f"--out={out}", "--world=mpi"]
    ).succeeded()
    one = Trajectory(trained / "sharpness.h5")
    assert one.series("sharpness/snapshot_xi_curvature").value.shape == (1, workers)
    assert_same(one, Trajectory(out))


def assert_same(one: Trajectory, two: Trajectory) -> None:
    """All series, to the rounding that their iterations amplify."""
    assert one.names() == two.names()
    assert {"sharpness/eigenvalues", "sharpness/density_nodes"} <= set(one.names())
    assert {"sharpness/ggn/trace", "sharpness/noise/alignment"} <= set(one.names())
    for name in one.names():
        a, b = one.series(name), two.series(name)
        assert a.step.tolist() == b.step.tolist()
        loose = 1e-3 if "density" in name else 1e-5 if "eigenvectors" in name else 1e-8
        if "residual" in name:  # those are rounding themselves
            continue
        theirs, ours = np.nan_to_num(b.value), np.nan_to_num(a.value)
        if "eigenvectors" in name:  # of either sign
            theirs, ours = (np.einsum("nkp,nkq->nkpq", v, v) for v in (theirs, ours))
        scale = np.abs(ours).max()
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=loose * scale, err_msg=name)


def test_a_fault_that_rank_0_meets_ends_all_ranks_with_one_message(
    trained: Path, tmp_path: Path
) -> None:
    """Other settings than those of the file: found only after all have made their task."""
    outcome = run(mpirun(2), [*COMMAND, str(trained), *OPTIONS, "--world=mpi"], timeout_s=60)
    assert outcome.status == 2
    assert outcome.text.count("of other settings") == 1
    assert "Traceback" not in outcome.text


def test_alone_there_is_no_such_command_line_fault(tmp_path: Path) -> None:
    outcome = run(alone, [*COMMAND, str(tmp_path)])
    assert outcome.status == 2
    assert "no such trajectory" in outcome.text
