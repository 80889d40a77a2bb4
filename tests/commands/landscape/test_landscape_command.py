"""`python -m hpc_localsgd landscape`: on a small run, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.commands.landscape import main
from hpc_localsgd.commands.landscape.options import LandscapeOptions
from hpc_localsgd.commands.sharpness.measured_run import rebuilt
from hpc_localsgd.commands.sharpness.options import SharpnessOptions
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

RUN = ["--task.hidden=4", "--workers=2", "--schedule=every", "--schedule.steps=4", "--steps=20"]
RUN += ["--figures=false"]
FAST = ["--samples=48", "--points=4", "--dtype=float64", "--world=simulated"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    for name, more in (
        ("run", ["--snapshot-every=5"]),
        ("other", ["--snapshot-every=5", "--seed=1"]),
    ):
        assert train([*RUN, *more, f"--out={out / name}"]) == 0
    assert train([*RUN, f"--out={out / 'bare'}"]) == 0
    return out


def loss_at(run: Path, x: np.ndarray) -> float:
    """On the first 48 samples of the seeded order, all at once."""
    how = SharpnessOptions(run=str(run), dtype="float64")
    task = rebuilt(Trajectory(run).config_text, how, torch.device("cpu"))
    batches = [task.batch([0], t) for t in range(3)]
    inputs, labels = (torch.cat([b[i][0] for b in batches]) for i in range(2))
    return float(task.loss(torch.from_numpy(x), (inputs, labels)))


def test_a_plane_holds_the_loss_of_its_points(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "plane.h5"
    assert main([str(trained / "run"), *FAST, f"--out={out}"]) == 0
    found = Landscape.read(out)
    assert found.directions == "pca" and found.missing == 0
    assert found.values["train_loss"].shape == (4, 4) and len(found.explained) == 2
    with h5py.File(out) as file:
        origin, directions = file["basis/origin"][:], file["basis/directions"][:]
    a, b = found.axes[0][1], found.axes[1][2]
    wanted = loss_at(trained / "run", origin + a * directions[0] + b * directions[1])
    np.testing.assert_allclose(found.values["train_loss"][1, 2], wanted, rtol=1e-12)
    # The path: five snapshots, the last at the origin, each where its projection is.
    run = Trajectory(trained / "run")
    assert found.step.tolist() == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(found.position[-1], 0, atol=1e-12)
    apart = run.snapshot(0).mean.astype(float) - origin
    np.testing.assert_allclose(found.position[0], directions @ apart, rtol=1e-9)
    made = {f"plane.{suffix}" for suffix in ("h5", "png", "pdf", "csv")}
    assert {f.name for f in tmp_path.iterdir()} == made


def test_a_line_goes_from_one_model_to_the_other(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "line.h5"
    runs = [str(trained / "run"), f"--other={trained / 'other'}"]
    assert main([*runs, *FAST, "--points=5", f"--out={out}"]) == 0
    assert "barrier" in capsys.readouterr().out
    found = Landscape.read(out)
    np.testing.assert_allclose(found.axes[0], [-0.5, 0, 0.5, 1, 1.5])
    for i, name in ((1, "run"), (3, "other")):
        x = Trajectory(trained / name).snapshot().mean.astype(float)
        np.testing.assert_allclose(
            found.values["train_loss"][i], loss_at(trained / "run", x), rtol=1e-9
        )
    assert np.isfinite(found.values["test_accuracy"]).all()


def test_a_job_that_was_killed_goes_on(trained: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.h5", tmp_path / "half.h5"
    command = [str(trained / "run"), *FAST, "--directions=random", "--test=false"]
    for out in (whole, half):
        assert main([*command, f"--out={out}"]) == 0
    with h5py.File(half, "a") as file:
        file["done"][2:] = 0
        file["value/train_loss"][2:] = np.nan
        file["value/train_loss"][0, 0] = 123.0  # done: not evaluated again
    assert Landscape.read(half).missing == 8
    assert main([*command, f"--out={half}"]) == 0
    a, b = (Landscape.read(out).values["train_loss"] for out in (whole, half))
    assert b[0, 0] == 123.0
    np.testing.assert_array_equal(a.ravel()[1:], b.ravel()[1:])


def test_snapshots_that_are_not_finite_are_left_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    with h5py.File(run / "trajectory.h5", "a") as file:
        file["snapshots/mean"][-1, 0] = np.nan
    for how in (["pca"], ["between", "--from-step=0", "--to-step=15"], ["random", "--to-step=15"]):
        out = tmp_path / f"{how[0]}.h5"
        assert main([str(run), *FAST, f"--out={out}", f"--directions={how[0]}", *how[1:]]) == 0
        assert "1 of the run's snapshots are left out" in capsys.readouterr().out
        assert Landscape.read(out).step.tolist() == [0, 5, 10, 15]
    said = refused(capsys, run, *FAST, "--directions=between", f"--out={tmp_path / 'x.h5'}")
    assert "the snapshot of step 20 is not finite" in said


def test_random_directions_need_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task=quadratic", "--workers=2", "--steps=8", "--snapshot-every=4"]
    assert train([*options, "--figures=false", f"--out={tmp_path}"]) == 0
    said = refused(capsys, tmp_path, "--directions=random", "--points=3")
    assert "no filters" in said and "--directions pca" in said


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(a) for a in argv]) == 2
    return capsys.readouterr().err


def test_faults_say_what_to_do(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "run"
    assert "no such trajectory" in refused(capsys, tmp_path / "nothing")
    assert "--snapshot-every" in refused(capsys, trained / "bare")
    assert "no snapshot at step 7" in refused(
        capsys, run, "--directions=between", "--from-step=7", *FAST
    )
    assert "the same" in refused(capsys, run, "--directions=between", "--from-step=20", *FAST)
    assert "never written to" in refused(capsys, run, *FAST, f"--out={run / 'trajectory.h5'}")
    out = f"--out={tmp_path / 'l.h5'}"
    assert main([str(run), *FAST, "--directions=random", "--dimensions=1", out]) == 0
    said = refused(capsys, run, *FAST, "--directions=random", "--dimensions=1", "--seed=4", out)
    assert "of other settings (seed)" in said and "--overwrite" in said
    again = ["--directions=random", "--dimensions=1", "--seed=4", out, "--overwrite"]
    assert main([str(run), *FAST, *again]) == 0
    with pytest.raises(ConfigurationError, match="about one run"):
        LandscapeOptions("a", other="b", directions="pca")
    with pytest.raises(ConfigurationError, match="at least 2 points"):
        LandscapeOptions("a", points=1)
