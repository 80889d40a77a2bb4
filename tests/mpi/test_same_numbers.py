"""The same configuration gives the same run, wherever its workers live.

One launch of every kind, two precisions in each: the processes of a launch start only once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from launching import gloo, horovodrun, mpirun, run

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
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

LAUNCHES: dict[str, tuple[Callable[[], list[str]], str]] = {
    "mpirun -np 3": (lambda: mpirun(3), "mpi(4 on 3 ranks, workers"),
    "horovodrun -np 2": (lambda: horovodrun(2), "horovod(2 x 2 workers"),
    "horovodrun --gloo -np 2": (lambda: gloo(2), "horovod(2 x 2 workers"),
}


def options(folder: Path, dtype: str, world: str) -> list[str]:
    return [*OPTIONS, f"--dtype={dtype}", f"--world={world}", f"--out={folder / dtype}"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trajectory]:
    folder = tmp_path_factory.mktemp("simulated")
    for dtype in PRECISIONS:
        assert main(options(folder, dtype, "simulated")) == 0
    return {dtype: Trajectory(folder / dtype) for dtype in PRECISIONS}


@pytest.fixture(scope="module", params=LAUNCHES)
def launched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trajectory]:
    launcher, said = LAUNCHES[request.param]
    world, folder, files = said.partition("(")[0], tmp_path_factory.mktemp("launched"), []
    for dtype in PRECISIONS:
        files.append(folder / f"{dtype}.txt")
        files[-1].write_text("\n".join(options(folder, dtype, world)))
    run(launcher(), [str(HERE / "several_runs.py"), *map(str, files)]).succeeded()
    runs = {dtype: Trajectory(folder / dtype) for dtype in PRECISIONS}
    for run_ in runs.values():  # it really was what it was meant to be
        assert run_.attrs["world"].startswith(said)
        assert ("Gloo" in run_.attrs["world"]) == ("--gloo" in request.param)
        assert run_.attrs["clock"] == "measured"
    return runs


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_parameters_agree(
    simulated: dict[str, Trajectory], launched: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype], launched[dtype]
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
    simulated: dict[str, Trajectory], launched: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype].rounds, launched[dtype].rounds
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
    simulated: dict[str, Trajectory], launched: dict[str, Trajectory], dtype: str
) -> None:
    ours, theirs = simulated[dtype], launched[dtype]
    assert theirs.names() == ours.names()
    for name in ours.names():
        a, b = ours.series(name), theirs.series(name)
        assert a.step.tolist() == b.step.tolist()
        # Relative to the largest value: a sample more or less is not an error of rounding.
        scale = np.nanmax(np.abs(a.value))  # a noise scale may be NaN, in both alike
        np.testing.assert_allclose(b.value, a.value, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_seconds_are_measured_and_add_up(launched: dict[str, Trajectory], dtype: str) -> None:
    rounds = launched[dtype].rounds
    for seconds in (rounds.compute_s, rounds.wait_s, rounds.transfer_s):
        assert seconds.shape == (25, 4)
        assert (seconds >= 0).all()
    assert rounds.compute_s.sum() > 0
    assert rounds.transfer_s.sum() > 0
    assert (rounds.wait_s.min(1) == 0).all()  # in every round somebody waited for nobody
    assert (rounds.wire_bytes > 0).all()
