"""A run goes on, unasked, on the ranks that are there: 3, then 2, 3 and 2, in several worlds.

Several runs share a launch; each is one record, and ends where the simulated run ends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launching import gloo, mpirun, run, torchrun
from moved_runs import check_same_run

from hpc_localsgd.train import main

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).parent / "several_runs.py")
STEPS = 24
RUN = ["--batch-per-worker=8", "--dtype=float64", "--rate=constant"]
RUN += ["--schedule=every", "--schedule.steps=4", "--evaluate-every=8", "--figures=false"]
RUN += ["--spread-every=4", "--checkpoint-every=4", "--resume=auto"]
CASES = {
    "diloco": ["--workers=8", "--algorithm=diloco", "--optimizer=AdamW"],
    "gossip": ["--workers=8", "--algorithm=gossip"],
    "mpi": ["--workers=6", "--world=mpi", "--algorithm=local_sgd"],
    "dropout": ["--task=dropping_digits.dropping_digits", "--workers=5"],
    "unsaid": ["--algorithm=slowmo"],  # K is that of the first launch
}
LEGS: list[tuple[Callable[[], list[str]], int, int]] = [
    (lambda: mpirun(3), 3, 8),
    (lambda: mpirun(2), 2, 12),
    (lambda: torchrun(3), 3, 20),
    (lambda: gloo(2), 2, STEPS),
]
OF_MPI = 2  # the first legs, whose launcher gives MPI to its ranks


def options(name: str, out: Path, steps: int) -> list[str]:
    return [*RUN, *CASES[name], "--task.hidden=8", f"--steps={steps}", f"--out={out}"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of all runs, and what was said in each launch."""
    folder, said = tmp_path_factory.mktemp("moved"), []
    for i, (launcher, _, steps) in enumerate(LEGS):
        files = []
        for name in CASES:
            if name == "mpi" and i >= OF_MPI:
                continue
            files.append(folder / f"{name}-{i}")
            files[-1].write_text("\n".join(options(name, folder / name, steps)))
        said.append(run(launcher(), [SCRIPT, *map(str, files)]).succeeded().stderr)
    return folder, said


@pytest.mark.parametrize("name", CASES)
def test_it_ends_where_the_simulated_run_ends(
    name: str, moved: tuple[Path, list[str]], tmp_path: Path
) -> None:
    steps = LEGS[OF_MPI - 1][2] if name == "mpi" else STEPS
    given = options(name, tmp_path / "alone", steps)
    given += ["--world=simulated", *(["--workers=3"] if name == "unsaid" else [])]
    assert main(given) == 0
    check_same_run(moved[0] / name, tmp_path / "alone", OF_MPI if name == "mpi" else len(LEGS))


def test_each_launch_says_so_in_one_line(moved: tuple[Path, list[str]]) -> None:
    for i, said in enumerate(moved[1][1:], 1):
        before, n = LEGS[i - 1][1], LEGS[i][1]
        line = f"the checkpoint is of {before} ranks and this job has {n}: the same"
        assert said.count(line) == len(CASES) - (i >= OF_MPI)
