"""The plane of the workers: each where it is before the exchange, their mean in the middle."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_localsgd.analysis.draw.landscape import draw_landscape
from hpc_localsgd.analysis.figure_data import kept
from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.analysis.panel_names import is_colour_bar
from hpc_localsgd.commands.landscape import main
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

RUN = ["--task.hidden=4", "--workers=4", "--schedule=every", "--schedule.steps=8", "--steps=16"]
FAST = ["--samples=48", "--points=4", "--dtype=float64", "--directions=workers"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots within both rounds (4, 12), and at exchanges (0, 8, 16)."""
    out = tmp_path_factory.mktemp("workers") / "run"
    options = ["--snapshot-every=4", "--snapshot-workers", "--figures=false", f"--out={out}"]
    assert train([*RUN, *options]) == 0
    return out


@pytest.mark.parametrize(("asked", "step"), [([], 12), (["--to-step=4"], 4)])
def test_workers_are_where_they_were(
    run: Path, tmp_path: Path, asked: list[str], step: int
) -> None:
    out = tmp_path / "plane.h5"
    assert main([str(run), *FAST, *asked, f"--out={out}"]) == 0
    found = Landscape.read(out)
    workers = Trajectory(run).snapshot(step, workers=True).workers
    assert workers is not None
    with h5py.File(out) as file:
        origin, directions = file["basis/origin"][:], file["basis/directions"][:]
    np.testing.assert_allclose(origin, workers.mean(0, dtype=np.float64))
    np.testing.assert_allclose(found.workers, (workers - origin) @ directions.T, atol=1e-6)
    np.testing.assert_allclose(found.workers.sum(0), 0, atol=1e-5)
    squares = np.square(workers - origin).sum()
    np.testing.assert_allclose(
        np.square(found.workers).sum(0) / squares, found.explained, atol=1e-5
    )
    inside = [
        (a[0] <= w.min()) and (w.max() <= a[-1])
        for a, w in zip(found.axes, found.workers.T, strict=True)
    ]
    assert all(inside)


def test_the_figure_has_a_scale_and_every_worker(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "plane.h5"
    assert main([str(run), *FAST, f"--out={out}"]) == 0
    figure = draw_landscape(Landscape.read(out))
    plane, scale = figure.axes
    assert is_colour_bar(scale) and scale.get_ylabel() == "train loss"
    (workers,) = (drawn for drawn in kept(plane) if drawn.line == "workers")
    np.testing.assert_array_equal(workers.x, Landscape.read(out).workers[:, 0])
    assert "of the workers' spread" in plane.get_xlabel()


@pytest.mark.parametrize(("asked", "words"), [("8", "do not differ in the snapshot of step 8")])
def test_workers_that_are_equal_have_no_plane(
    run: Path, asked: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *FAST, f"--to-step={asked}"]) == 2
    assert words in capsys.readouterr().err
    assert not (run / "landscape-workers.h5").exists()


def test_snapshots_of_the_mean_alone_say_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train([*RUN, "--snapshot-every=4", "--figures=false", f"--out={out}"]) == 0
    assert main([str(out), *FAST]) == 2
    assert "--snapshot-workers" in capsys.readouterr().err
