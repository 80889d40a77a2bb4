"""`--smoke` of every recipe under mpirun: the algorithms on synthetic data, a second each.

All of them in one launch, in the order of their names; each test waits for its own. One that fails
ends those behind it, too.

Of the nets that take long, each is trained by one recipe as it is: resnet50, resnet18, the
transformer of texts. Others that have it, or one of the same layers, take a small net. What each
is at its real size, `test_recipes` counts, and `test_models` builds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ends_of_several import has_ended, options_of
from launching import Job, mpirun, started

from hpc_localsgd.commands.smoke import STEPS
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
RECIPES = sorted((HERE.parents[1] / "benchmarks" / "configs").glob("*.yaml"))
SMALL_NET = ("--task.model=resnet20",)
# Images of ImageNet are small, in a tenth of the time.
SMALLER = {
    "cifar10_labelnoise_resnet56": SMALL_NET,
    "imagenet_postlocal": ("--task.size=32", *SMALL_NET),
    "muloco_text": ("--task.width=64", "--task.layers=2", "--task.length=64"),
    "qsr_imagenet_resnet152": ("--task.size=32", *SMALL_NET),
    "qsr_imagenet_resnet50": ("--task.size=32",),
    "qsr_imagenet_vit_b": ("--task.size=64",),  # and see `several_small_runs`
    "zhu_dsgd_exponential": SMALL_NET,
    "zhu_dsgd_grid": SMALL_NET,
    "zhu_dsgd_ring": SMALL_NET,
}


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job]]:
    """The folder of the trials, and the launch that does them."""
    folder = tmp_path_factory.mktemp("recipes")
    files = []
    for path in RECIPES:
        files.append(options_of(folder / path.stem))
        words = ["--config", path, "--smoke", "--world=mpi", "--out", folder / path.stem]
        words += SMALLER.get(path.stem, ())
        files[-1].write_text("\n".join(map(str, words)))
    with pytest.MonkeyPatch.context() as patch:
        # Memory that is given back after every step is a third of the time of all.
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**32))
        patch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**33))
        with started(mpirun(2), [str(HERE / "several_small_runs.py"), *map(str, files)]) as job:
            yield folder, job


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(path: Path, trials: tuple[Path, Job]) -> None:
    folder, job = trials
    has_ended(job, options_of(folder / path.stem), 100)
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
