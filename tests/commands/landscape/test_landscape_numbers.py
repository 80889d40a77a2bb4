"""Directions and slices against closed forms and numpy's own SVD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.commands.landscape.directions import coordinates, filter_normalised, principal
from hpc_localsgd.commands.landscape.surface import Surface, shapes_of
from hpc_localsgd.curvature import build_for_curvature
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digits import digits


def points(m: int = 7, P: int = 50) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((m, P)) * np.linspace(3, 0.1, m)[:, None]


def test_principal_directions_are_those_of_the_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points()
    apart = x - x[-1]
    _, s, V = np.linalg.svd(apart, full_matrices=False)
    for block in (1 << 20, 8):  # whole, and in pieces
        monkeypatch.setattr("hpc_localsgd.commands.landscape.directions.BLOCK", block)
        found, explained = principal(x, x[-1], 2)
        np.testing.assert_allclose(np.abs(np.sum(found * V[:2], axis=1)), 1, atol=1e-12)
        np.testing.assert_allclose(explained, s[:2] ** 2 / (s**2).sum(), rtol=1e-10)
        assert (found @ apart[0] > 0).all()


def test_points_on_a_line_have_one_direction_only() -> None:
    x = np.linspace(0, 1, 5)[:, None] * np.ones((1, 9))
    found, explained = principal(x, x[-1], 1)
    np.testing.assert_allclose(explained, 1)
    np.testing.assert_allclose(np.abs(found), 1 / 3)
    with pytest.raises(ConfigurationError, match="do not span 2 directions"):
        principal(x, x[-1], 2)


def test_coordinates_of_points_in_a_slanted_plane() -> None:
    random = np.random.default_rng(1)
    origin, directions = random.standard_normal(20), random.standard_normal((2, 20))
    at = random.standard_normal((6, 2))
    normal = np.linalg.svd(directions)[2][-1]
    height = np.arange(6.0)
    x = origin + at @ directions + height[:, None] * normal
    found, off = coordinates(x, origin, directions)
    np.testing.assert_allclose(found, at, atol=1e-12)
    np.testing.assert_allclose(off, height, atol=1e-6)


def test_every_filter_moves_by_its_own_length_and_vectors_do_not_move() -> None:
    task = build_for_curvature(digits(model="conv", norm="batch", hidden=4), batch=16)
    shapes = shapes_of(task)
    x = task.init(3).double().numpy()
    rows = filter_normalised(x, shapes, 2, seed=5)
    assert rows.shape == (2, task.dim) and not np.allclose(rows[0], rows[1])
    at = 0
    for shape in shapes:
        size = int(np.prod(shape))
        weights, moved = x[at : at + size], rows[:, at : at + size]
        at += size
        if len(shape) < 2:
            assert (moved == 0).all()
            continue
        own = np.linalg.norm(weights.reshape(shape[0], -1), axis=1)
        for row in moved:
            np.testing.assert_allclose(np.linalg.norm(row.reshape(shape[0], -1), axis=1), own)
    assert at == task.dim
    np.testing.assert_array_equal(rows, filter_normalised(x, shapes, 2, seed=5))


class Paraboloid:
    """Stands in for a task: the loss of sample i is (x - c_i)^T A (x - c_i) / 2."""

    def __init__(self, P: int = 6) -> None:
        random = np.random.default_rng(0)
        root = random.standard_normal((P, P))
        self.A, self.c = torch.from_numpy(root @ root.T), torch.from_numpy(random.random((10, P)))
        self.x, self.buffers = torch.zeros(1, P, dtype=torch.float64), torch.zeros(1, 0)
        self.splits, self.dim = {"train": 10}, P
        self.partition = type("Partition", (), {"batch": 4})()

    def batch(self, workers: Any, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(4 * t, 4 * t + 4) % 10
        return self.c[rows][None], rows[None]

    def loss(self, x: torch.Tensor, batch: Any, buffers: Any = None) -> torch.Tensor:
        away = x - batch[0]
        return 0.5 * torch.einsum("ni,ij,nj->n", away, self.A, away).mean()


@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_a_slice_of_a_quadratic_is_a_quadratic(chunk: int) -> None:
    """L(o + a u + b v) = L(o) + (a u + b v)^T g + (a u + b v)^T A (a u + b v) / 2, exactly."""
    task: Any = Paraboloid()
    surface = Surface(task, samples=10, chunk=chunk)
    random = np.random.default_rng(2)
    o, u, v = (torch.from_numpy(random.standard_normal(task.dim)) for _ in range(3))
    g = task.A @ (o - task.c.mean(0))
    centre = surface.at(o)[0]
    for a, b in ((0.0, 0.0), (1.0, -2.0), (0.3, 4.0)):
        step = a * u + b * v
        wanted = centre + float(step @ g + 0.5 * step @ task.A @ step)
        found = surface.at(o + step)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-12)
        assert np.isnan(found[1:]).all()  # it has no test set


def test_batchnorm_is_re_estimated_at_every_point() -> None:
    """Scaling the weights into a BatchNorm changes nothing once its statistics follow."""
    task = build_for_curvature(digits(model="conv", norm="batch", hidden=4), batch=64)
    surface = Surface(task, samples=256, chunk=128)
    x = task.init(0)
    other = x.clone()
    first = int(np.prod(shapes_of(task)[0]))
    other[:first] *= 50.0
    np.testing.assert_allclose(surface.at(other), surface.at(x), rtol=2e-3)
    inputs, labels = task.batch([0], 0)
    fixed = [float(task.loss(point, (inputs[0], labels[0]))) for point in (x, other)]
    assert abs(fixed[1] - fixed[0]) > 0.02 * fixed[0]  # which kept statistics would not give


def test_a_part_of_the_test_set_is_spread_over_all_of_it() -> None:
    """Test sets may be sorted by class."""
    task = build_for_curvature(digits(hidden=4), batch=16, dtype=torch.float64)
    held, x = task.splits["test"], task.init(0)
    every = [task.evaluate(x, "test", range(i, i + 1), task.buffers[0]) for i in range(held)]
    rows = range(0, held, 4)
    want = torch.stack([every[i] for i in rows]).sum(0) / len(rows)
    found = Surface(task, samples=held // 4 + 1, chunk=64).at(x)
    np.testing.assert_allclose(found[1:], want[:2].numpy(), rtol=1e-12)


def test_the_barrier_of_a_line() -> None:
    a = np.linspace(-0.5, 1.5, 9)
    hill = 1 + a + 3 * np.maximum(0, 1 - np.abs(2 * a - 1))  # 3 above the chord, at 1/2
    values = {"train_loss": hill, "test_loss": np.full(9, np.nan)}
    none = np.empty(0)
    found = Landscape((a,), values, none, none, none, none, none, {"directions": "between"})
    np.testing.assert_allclose(found.barrier("train_loss"), 3)
    assert np.isnan(found.barrier("test_loss")) and np.isnan(found.barrier("unknown"))
    bowl = Landscape((a,), {"train_loss": a**2}, none, none, none, none, none, found.attrs)
    assert bowl.barrier("train_loss") == 0


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    from hpc_localsgd.trajectory import TrajectoryError

    (tmp_path / "landscape.h5").write_text("no")
    for name, why in (("landscape.h5", "not an HDF5 file"), ("other.h5", "no such landscape")):
        with pytest.raises(TrajectoryError, match=why):
            Landscape.read(tmp_path / name)
