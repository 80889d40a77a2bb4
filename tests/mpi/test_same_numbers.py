"""The same configuration gives the same run, wherever its workers live, and where they move.

A few launches, one after another, with several runs in each: their processes start only once. Some
are over in a launch, in two precisions; others go on, unasked, in the next, on the ranks that are
there. A test waits for the launches up to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ends_of_several import FIRST, SEVERAL
from launching import forked, gloo, horovodrun, mpirun, run
from moved_runs import check_same_run

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

PRECISIONS = {"float32": 1e-5, "float64": 1e-12}
OPTIONS = """--workers=4
--steps=60
--schedule.switch=20
--schedule.every=8
--momentum-at-sync=average
--evaluate-every=20
--spread-every=1
--deviations-every=16
--gradients-every=16
--probe-samples=64
--snapshot-every=30
--snapshot-workers
--figures=false
--task.hidden=32
""".split()
OF_TORCH = "torchrun's variables, 3 ranks"  # under torchrun itself: tests/hosts, tests/contract
# What starts a launch, its number of ranks, and the steps at which runs that move end there.
LAUNCHES: dict[str, tuple[Callable[[int], list[str]], int, int]] = {
    "mpirun -np 3": (mpirun, 3, 8),
    "horovodrun -np 2": (horovodrun, 2, 12),
    OF_TORCH: (forked, 3, 20),
    "horovodrun --gloo -np 2": (gloo, 2, 24),
}
# Launch -> the world of the runs that are over in it, in the words of their records.
WORLDS = {
    "mpirun -np 3": "mpi(4 on 3 ranks, workers",
    "horovodrun -np 2": "horovod(2 x 2 workers",
    OF_TORCH: "torch(4 on 3 ranks, workers",
    "horovodrun --gloo -np 2": "horovod(2 x 2 workers",
}
MOVES = ["--batch-per-worker=8", "--dtype=float64", "--rate=constant", "--task.hidden=8"]
MOVES += ["--schedule=every", "--schedule.steps=4", "--evaluate-every=8", "--figures=false"]
MOVES += ["--spread-every=4", "--checkpoint-every=4", "--resume=auto", "--replicas=loop"]
MOVED = {
    "diloco": ["--workers=8", "--algorithm=diloco", "--optimizer=AdamW"],
    "gossip": ["--workers=8", "--algorithm=gossip"],
    "mpi": ["--workers=6", "--world=mpi", "--algorithm=local_sgd"],
    "dropout": ["--task=dropping_digits.dropping_digits", "--workers=5"],
    "unsaid": ["--algorithm=slowmo"],  # K is that of the first launch
}
BATCHED = "horovodrun --gloo -np 2"  # elsewhere a rank takes its workers one by one
OF_MPI = 2  # the first launches, which give MPI to their ranks
Launched = Callable[[str], tuple[Path, str]]


def options(folder: Path, dtype: str, world: str) -> list[str]:
    """Those of a run that is over in a launch."""
    return [*OPTIONS, f"--dtype={dtype}", f"--world={world}", f"--out={folder / dtype}"]


def moving(name: str, out: Path, steps: int) -> list[str]:
    """Those of a run that moves, up to so many steps."""
    return [*MOVES, *MOVED[name], f"--steps={steps}", f"--out={out}"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Start the launches up to a given one; its folder, beside `moved`, and what it said."""
    folder = tmp_path_factory.mktemp("launched")

    @cache
    def done(launch: str) -> tuple[Path, str]:
        i = [*LAUNCHES].index(launch)
        if i > 0:
            done([*LAUNCHES][i - 1])
        launcher, ranks, steps = LAUNCHES[launch]
        here = folder / str(i)
        here.mkdir()
        runs = {name: moving(name, folder / "moved" / name, steps) for name in moving_in(i)}
        if launch in WORLDS:
            world = WORLDS[launch].partition("(")[0]
            how = [] if launch == BATCHED else ["--replicas=loop"]
            runs |= {dtype: [*options(here, dtype, world), *how] for dtype in PRECISIONS}
        files = written(here, runs.items())
        first = ["--first", FIRST] if launcher is forked else []
        return here, run(launcher(ranks), [*first, SEVERAL, *files]).succeeded().stderr

    return done


def moving_in(i: int) -> list[str]:
    """The runs that begin in a launch, or go on."""
    return [name for name in MOVED if name != "mpi" or i < OF_MPI]


def written(folder: Path, runs: Iterable[tuple[str, list[str]]]) -> list[str]:
    """The files of the options of runs."""
    files = []
    for name, lines in runs:
        files.append(folder / f"{name}.txt")
        files[-1].write_text("\n".join(lines))
    return [*map(str, files)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trajectory]:
    folder = tmp_path_factory.mktemp("simulated")
    for dtype in PRECISIONS:
        assert main(options(folder, dtype, "simulated")) == 0
    return {dtype: Trajectory(folder / dtype) for dtype in PRECISIONS}


@pytest.fixture(scope="module", params=WORLDS)
def elsewhere(request: pytest.FixtureRequest, launched: Launched) -> dict[str, Trajectory]:
    folder, _ = launched(request.param)
    runs = {dtype: Trajectory(folder / dtype) for dtype in PRECISIONS}
    for run_ in runs.values():  # it really was what it was meant to be
        assert run_.attrs["world"].startswith(WORLDS[request.param])
        assert ("Gloo" in run_.attrs["world"]) == ("--gloo" in request.param)
        assert run_.attrs["clock"] == "measured"
    return runs


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_one_process_runs_to_the_end(simulated: dict[str, Trajectory], dtype: str) -> None:
    assert simulated[dtype].status == "complete"
    assert simulated[dtype].snapshot_steps.tolist() == [0, 30, 60]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_parameters_agree(
    simulated: dict[str, Trajectory], elsewhere: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype], elsewhere[dtype]
    assert theirs.snapshot_steps.tolist() == [0, 30, 60]
    start = ours.snapshot(0).mean
    for step in (0, 30, 60):  # 30 is in the middle of a round
        a, b = ours.snapshot(step, workers=True), theirs.snapshot(step, workers=True)
        for x, y in ((a.mean, b.mean), (a.workers, b.workers)):
            assert np.linalg.norm(x - y) <= PRECISIONS[dtype] * np.linalg.norm(x)
    assert np.linalg.norm(theirs.snapshot(60).mean - start) > 1
    apart = theirs.snapshot(30, workers=True)
    assert np.abs(apart.workers - apart.mean).max() > 1e-3


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rounds_and_payload_are_the_same(
    simulated: dict[str, Trajectory], elsewhere: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype].rounds, elsewhere[dtype].rounds
    for name in ("step_begin", "step_end", "local_steps", "lr", "payload_bytes"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)
    assert len(ours.step_end) == 25
    P = simulated[dtype].P
    itemsize = np.dtype(dtype).itemsize
    # With momentum averaged, a round of local steps sends two vectors, a parallel step one.
    expected = [itemsize * P * (1 if H == 1 else 2) for H in ours.local_steps]
    np.testing.assert_array_equal(theirs.payload_bytes, np.array(expected)[:, None].repeat(4, 1))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_what_was_measured_agrees(
    simulated: dict[str, Trajectory], elsewhere: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype], elsewhere[dtype]
    assert theirs.names() == ours.names()
    for name in ours.names():
        a, b = ours.series(name), theirs.series(name)
        assert a.step.tolist() == b.step.tolist()
        # Relative to the largest value: a sample more or less is not an error of rounding.
        scale = np.nanmax(np.abs(a.value))  # a noise scale may be NaN, in both alike
        np.testing.assert_allclose(b.value, a.value, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_seconds_are_measured_and_add_up(elsewhere: dict[str, Trajectory], dtype: str) -> None:
    rounds = elsewhere[dtype].rounds
    for seconds in (rounds.compute_s, rounds.wait_s, rounds.transfer_s):
        assert seconds.shape == (25, 4)
        assert (seconds >= 0).all()
    assert rounds.compute_s.sum() > 0
    assert rounds.transfer_s.sum() > 0
    assert (rounds.wait_s.min(1) == 0).all()  # in every round somebody waited for nobody
    assert (rounds.wire_bytes > 0).all()


@pytest.mark.parametrize("name", MOVED)
def test_a_run_that_moves_ends_where_the_simulated_run_ends(
    name: str, launched: Launched, tmp_path: Path
) -> None:
    legs = [*LAUNCHES][:OF_MPI] if name == "mpi" else [*LAUNCHES]
    folder, _ = launched(legs[-1])
    given = moving(name, tmp_path / "alone", LAUNCHES[legs[-1]][2])
    given += ["--world=simulated", *(["--workers=3"] if name == "unsaid" else [])]
    assert main(given) == 0
    check_same_run(folder.parent / "moved" / name, tmp_path / "alone", len(legs))


def test_each_launch_says_so_in_one_line(launched: Launched) -> None:
    ranks = [n for _, n, _ in LAUNCHES.values()]
    for i, launch in enumerate([*LAUNCHES][1:], 1):
        line = f"the checkpoint is of {ranks[i - 1]} ranks and this job has {ranks[i]}: the same"
        assert launched(launch)[1].count(line) == len(moving_in(i))
