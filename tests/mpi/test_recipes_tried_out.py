"""`--smoke` of every recipe under mpirun: the real models and algorithms, seconds each."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import mpirun, train

from hpc_localsgd.smoke import STEPS
from hpc_localsgd.trajectory import Trajectory

RECIPES = sorted((Path(__file__).parents[2] / "benchmarks" / "configs").glob("*.yaml"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(path: Path, tmp_path: Path) -> None:
    options = ("--config", str(path), "--smoke", "--out", str(tmp_path / "run"))
    train(mpirun(2), *options, timeout_s=500).succeeded()
    run = Trajectory(tmp_path / "run-smoke")
    assert run.attrs["status"] == "complete"
    assert run.rounds.step_end[-1] == STEPS
    longest = max(run.rounds.local_steps)
    assert longest == 1 if path.stem.startswith("zh") else longest > 1
    assert run.series("eval/test/loss").step.tolist()[-1] == STEPS
    assert not (tmp_path / "run-smoke" / "checkpoints").exists()  # gigabytes, for nobody
