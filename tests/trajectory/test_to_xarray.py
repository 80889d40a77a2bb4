"""A trajectory as an xarray.Dataset: everything in it once, or a message without xarray."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.trajectory import Header, Trajectory, TrajectoryError, Writer


@pytest.fixture
def run(tmp_path: Path) -> Trajectory:
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    with Writer(tmp_path, Header("seed: 3", **names, K=2, P=5, seed=3)) as writer:
        for s in range(4):
            row = {"compute_s": [1.0, 2.0], "wait_s": 0.5, "transfer_s": 0.1, "payload_bytes": 8}
            writer.round(step_begin=2 * s, step_end=2 * s + 2, lr=0.1 / (s + 1), **row)
            writer.series("train/loss", 2 * s, [1.0, 2.0 + s], units="nat", dims=("worker",))
            writer.series("xi", 2 * s, np.arange(3.0), dims=("eigenvalue",), meaning="of Xi")
        writer.series("eval/test/accuracy", 8, 0.9, units="fraction", meaning="mean model")
        writer.series("vectors", 8, np.ones(5), dims=("parameter",))
    return Trajectory(tmp_path)


def test_everything_is_in_it_with_its_axes_and_units(run: Trajectory) -> None:
    pytest.importorskip("xarray", reason="pip install '.[xarray]'")
    found = run.to_xarray()
    assert found["rounds/wait_s"].dims == ("round", "worker")
    np.testing.assert_array_equal(found["rounds/lr"], run.rounds.lr)
    assert found["rounds/wait_s"].attrs["units"] == "s"
    loss = found["train/loss"]
    assert loss.dims == ("train/loss/step", "worker") and loss.attrs["units"] == "nat"
    np.testing.assert_array_equal(loss["train/loss/step"], [0, 2, 4, 6])
    np.testing.assert_array_equal(loss.mean("worker"), [1.5, 2, 2.5, 3])
    assert found["xi"].dims == ("xi/step", "xi/eigenvalue")
    assert float(found["eval/test/accuracy"][-1]) == 0.9
    assert "vectors" not in found
    assert found.attrs["K"] == 2 and found.attrs["config"] == "seed: 3"


def test_without_xarray_it_says_what_to_type(
    run: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(TrajectoryError, match="pip install xarray"):
        run.to_xarray()
