"""`--smoke` of every recipe under mpirun: the real models and algorithms, seconds each.

All of them in one launch, in the order of their names; one that fails ends those behind it, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import Outcome, mpirun, run

from hpc_localsgd.commands.smoke import STEPS
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
RECIPES = sorted((HERE.parents[1] / "benchmarks" / "configs").glob("*.yaml"))
# Of nets of ImageNet one sees images of their real size; the others smaller ones, in a tenth of
# the time. (What each of them is at its real size, `test_recipes` counts.)
SMALLER = ("qsr_imagenet_resnet152", "qsr_imagenet_resnet50", "qsr_imagenet_vit_b")
pytestmark = pytest.mark.timeout(900)  # of all together


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of the trials, and how the launch ended."""
    folder = tmp_path_factory.mktemp("recipes")
    files = []
    for path in RECIPES:
        files.append(folder / f"{path.stem}.options")
        words = ["--config", path, "--smoke", "--world=mpi", "--out", folder / path.stem]
        words += ["--task.size=64"] if path.stem in SMALLER else []
        files[-1].write_text("\n".join(map(str, words)))
    return folder, run(mpirun(2), [str(HERE / "several_runs.py"), *map(str, files)], timeout_s=800)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(path: Path, tried: tuple[Path, Outcome]) -> None:
    folder, outcome = tried
    out = folder / f"{path.stem}-smoke"
    assert (out / "trajectory.h5").exists(), outcome.text[-3000:]
    trial = Trajectory(out)
    assert trial.attrs["status"] == "complete", outcome.text[-3000:]
    assert trial.rounds.step_end[-1] == STEPS
    longest = max(trial.rounds.local_steps)
    assert longest == 1 if path.stem.startswith("zh") else longest > 1
    assert trial.series("eval/test/loss").step.tolist()[-1] == STEPS
    assert not (out / "checkpoints").exists()  # gigabytes, for nobody


def test_all_of_them_ended_well(tried: tuple[Path, Outcome]) -> None:
    tried[1].succeeded()
