"""`--smoke` of every recipe under mpirun: the real models and algorithms, seconds each.

All of them in one launch, in the order of their names; each test waits for its own. One that fails
ends those behind it, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Job, mpirun, started, until

from hpc_localsgd.commands.smoke import STEPS
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
RECIPES = sorted((HERE.parents[1] / "benchmarks" / "configs").glob("*.yaml"))
# Nets of ImageNet see small images, in a tenth of the time. (What each of them is at its real size,
# `test_recipes` counts.)
SMALLER = [path.stem for path in RECIPES if "imagenet" in path.stem]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job]]:
    """The folder of the trials, and the launch that does them."""
    folder = tmp_path_factory.mktemp("recipes")
    files = []
    for path in RECIPES:
        files.append(folder / f"{path.stem}.options")
        words = ["--config", path, "--smoke", "--world=mpi", "--out", folder / path.stem]
        words += ["--task.size=64"] if path.stem in SMALLER else []
        files[-1].write_text("\n".join(map(str, words)))
    with pytest.MonkeyPatch.context() as patch:
        # Memory that is given back after every step is a third of the time of all.
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**32))
        patch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**33))
        with started(mpirun(2), [str(HERE / "several_runs.py"), *map(str, files)]) as job:
            yield folder, job


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(path: Path, trials: tuple[Path, Job]) -> None:
    folder, job = trials
    said = f"{folder / path.stem}.options: ended"
    until(lambda: job.process.poll() is not None or said in job.stderr.read_text(), 100, said)
    out = folder / f"{path.stem}-smoke"
    assert (out / "trajectory.h5").exists(), job.stderr.read_text()[-3000:]
    trial = Trajectory(out)
    assert trial.attrs["status"] == "complete", job.stderr.read_text()[-3000:]
    assert trial.rounds.step_end[-1] == STEPS
    longest = max(trial.rounds.local_steps)
    assert longest == 1 if path.stem.startswith("zh") else longest > 1
    assert trial.series("eval/test/loss").step.tolist()[-1] == STEPS
    assert not (out / "checkpoints").exists()  # gigabytes, for nobody


def test_all_of_them_ended_well(trials: tuple[Path, Job]) -> None:
    trials[1].wait().succeeded()
