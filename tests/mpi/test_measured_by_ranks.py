"""Ranks that share the samples or points of a measurement find the same as one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ends_of_several import commands, statuses
from launching import Outcome, horovodrun, mpirun, run

from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.commands.landscape import main as landscape
from hpc_localsgd.commands.sharpness import main as sharpness
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

# Pieces of 6, 6, 6 and 2 samples: each of two ranks has its own for BatchNorm's statistics.
OPTIONS = ["--samples=20", "--eigenvalues=2", "--dtype=float64", "--direction-probes=2"]
OPTIONS += ["--trace-probes=10", "--density-steps=5", "--density-probes=2", "--steps=last"]
OPTIONS += ["--ggn", "--fisher", "--noise", "--eigenvectors"]
MORE = ["--density"]  # another setting
COMMAND = ["-m", "hpc_localsgd", "sharpness"]
POINTS = ["--samples=64", "--points=5"]
LENGTH = ["--schedule=every", "--schedule.steps=4", "--steps=12", "--batch-per-worker=6"]
KEPT = ["--snapshot-every=4", "--snapshot-workers", "--figures=false"]
# With BatchNorm, whose statistics the ranks re-estimate together. At a rate of 0.1 all hidden units
# die, and with them whatever depends on these statistics.
ALIVE = ["--task.norm=batch", "--task.hidden=4", "--rate.lr=0.01"]
RUNS = {
    "conv": ["--task.model=conv", *ALIVE, "--workers=2"],
    "one worker": ["--task.hidden=3", "--workers=1"],
    "four workers": ["--task.hidden=3", "--workers=4"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs, measured by one process."""
    folder = tmp_path_factory.mktemp("trained")
    outs = {name: folder / name.replace(" ", "-") for name in RUNS}
    for name, out in outs.items():
        assert train([*RUNS[name], *LENGTH, *KEPT, f"--out={out}"]) == 0
        assert sharpness([str(out), *OPTIONS, *MORE]) == 0
    kept = f"--out={outs['conv'] / 'landscape.h5'}"
    assert landscape([str(outs["conv"]), *POINTS, "--world=simulated", kept]) == 0
    return outs


@pytest.fixture(scope="module")
def two(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of what two ranks of one launch measured, and what they said.

    That is `sharpness-NAME` and `landscape`; and, refused, what has other settings than its file.
    """
    folder = tmp_path_factory.mktemp("two")
    words = {
        f"sharpness-{name}": ["sharpness", str(out), *OPTIONS, *MORE, f"--out={folder / name}.h5"]
        for name, out in trained.items()
    }
    kept = f"--out={folder / 'landscape.h5'}"
    words["landscape"] = ["landscape", str(trained["conv"]), *POINTS, kept]
    words["refused"] = ["sharpness", str(trained["conv"]), *OPTIONS]
    words = {name: [*those, "--world=mpi"] for name, those in words.items()}
    return folder, run(mpirun(2), commands(folder, words))


@pytest.fixture(scope="module")
def by_two_ranks(two: tuple[Path, Outcome]) -> Path:
    """The folder, where all went well but for what is refused."""
    folder, ended = two
    said = ended.stdout
    for name in [*(f"sharpness-{name}" for name in RUNS), "landscape"]:
        assert statuses(ended.stderr, folder, name) == [0, 0], ended.text
    assert said.count("three largest eigenvalues") == len(RUNS)  # one rank speaks
    assert said.count("5 x 5 points") == 1
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_one_process_measures_every_worker(trained: dict[str, Path], name: str) -> None:
    found = Trajectory(trained[name] / "sharpness.h5").series("sharpness/snapshot_xi_curvature")
    assert found.value.shape == (1, int(RUNS[name][-1].rpartition("=")[2]))


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_measure_the_same_sharpness(
    trained: dict[str, Path], by_two_ranks: Path, name: str
) -> None:
    one = Trajectory(trained[name] / "sharpness.h5")
    assert_same(one, Trajectory(by_two_ranks / f"{name}.h5"))


def test_two_ranks_find_the_same_landscape_to_the_last_bit(
    trained: dict[str, Path], by_two_ranks: Path
) -> None:
    one, two = (
        Landscape.read(path)
        for path in (trained["conv"] / "landscape.h5", by_two_ranks / "landscape.h5")
    )
    for name, values in one.values.items():
        np.testing.assert_array_equal(values, two.values[name], err_msg=name)
    np.testing.assert_array_equal(one.position, two.position)


def test_the_command_itself_under_horovodrun(trained: dict[str, Path], tmp_path: Path) -> None:
    """The run with BatchNorm: its statistics are re-estimated by Horovod's averages, too."""
    out, name = tmp_path / "two.h5", "conv"
    more = [*MORE, f"--out={out}", "--world=horovod"]
    said = run(horovodrun(2), [*COMMAND, str(trained[name]), *OPTIONS, *more]).succeeded()
    assert said.stdout.count("three largest eigenvalues") == 1
    assert_same(Trajectory(trained[name] / "sharpness.h5"), Trajectory(out))


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
            theirs = np.where((theirs * ours).sum(-1, keepdims=True) < 0, -theirs, theirs)
        scale = np.abs(ours).max()
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=loose * scale, err_msg=name)


def test_a_fault_that_rank_0_meets_ends_all_ranks_with_one_message(
    two: tuple[Path, Outcome],
) -> None:
    """Other settings than those of the file: found only after all have made their task."""
    folder, ended = two
    assert statuses(ended.stderr, folder, "refused") == [2, 2]
    assert ended.status == 2
    assert ended.text.count("of other settings") == 1
    assert "Traceback" not in ended.text


def test_alone_there_is_no_such_command_line_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sharpness([str(tmp_path)]) == 2
    assert "no such trajectory" in capsys.readouterr().err
