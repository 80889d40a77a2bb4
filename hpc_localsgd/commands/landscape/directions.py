"""Directions through parameter space, and where models are along them. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.errors import ConfigurationError

BLOCK = 1 << 20  # parameters that are looked at in float64 at a time


def filter_normalised(
    x: np.ndarray, shapes: Sequence[tuple[int, ...]], count: int, seed: int
) -> np.ndarray:
    """Draw random directions, every filter as long as the model's own: ``[count, P]``.

    A filter is a slice along the first axis of a tensor: the weights into one output. Vectors
    (biases, parameters of norms) do not move.

    Source: Li et al., Visualizing the Loss Landscape of Neural Nets, arXiv:1712.09913.

    Args:
        x: ``[P]`` the model.
        shapes: Of its tensors, in the order of the vector.
        count: How many directions.
        seed: Of their random numbers.
    """
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        parts, at = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            drawn = random.standard_normal(size)
            weights = x[at : at + size].astype(np.float64)
            parts.append(_as_long_as(drawn, weights, shape))
            at += size
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def _as_long_as(drawn: np.ndarray, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 2:
        return np.zeros_like(drawn)
    filters, own = drawn.reshape(shape[0], -1), weights.reshape(shape[0], -1)
    lengths = np.linalg.norm(filters, axis=1, keepdims=True)
    return (filters * (np.linalg.norm(own, axis=1, keepdims=True) / lengths)).ravel()


def principal(points: np.ndarray, origin: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal directions of points about an origin.

    Unit vectors ``[count, P]``, and the shares ``[count]`` of the points' squared distances.

    From the m x m Gram matrix of x_i - origin, whose eigenvectors u give the right singular vectors
    (x - origin)^T u / s. The first point lies on the positive side of every direction.

    Source: the same paper, section 7, with the last model as origin.

    Args:
        points: ``[m, P]``.
        origin: ``[P]``.
        count: How many directions.

    Raises:
        ConfigurationError: The points do not span so many.
    """
    gram = np.zeros((len(points), len(points)))
    for at in range(0, points.shape[1], BLOCK):
        block = _apart(points, origin, at)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    total = float(np.trace(gram))
    # Squares of singular values: what is below this is rounding.
    if len(values) < count or not values[-1] > 1e-12 * max(total, 1e-300):
        raise ConfigurationError(
            f"the {len(points)} snapshots of the run do not span {count} directions: train with "
            'snapshots at more steps (--snapshot-every "5%"), or look in --directions random'
        )
    rows = np.empty((count, points.shape[1]))
    for at in range(0, points.shape[1], BLOCK):
        block = _apart(points, origin, at)
        rows[:, at : at + BLOCK] = (block.T @ (vectors / np.sqrt(values))).T
    signs = np.where(np.sum(rows * (points[0].astype(np.float64) - origin), axis=1) < 0, -1.0, 1.0)
    return rows * signs[:, None], values / total


def coordinates(
    points: np.ndarray, origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of points in the slice ``[m, d]``, and their distances from it ``[m]``.

    Orthogonal projection; the directions need not be orthogonal.

    Args:
        points: ``[m, P]``.
        origin: ``[P]``.
        directions: ``[d, P]``.
    """
    d = len(directions)
    products, square = np.zeros((len(points), d)), np.zeros(len(points))
    for at in range(0, points.shape[1], BLOCK):
        block = _apart(points, origin, at)
        products += block @ directions[:, at : at + BLOCK].T
        square += (block**2).sum(axis=1)
    found = np.linalg.solve(directions @ directions.T, products.T).T
    inside = (found * products).sum(axis=1)
    return found, np.sqrt(np.maximum(square - inside, 0.0))


def _apart(points: np.ndarray, origin: np.ndarray, at: int) -> np.ndarray:
    part = slice(at, at + BLOCK)
    return points[:, part].astype(np.float64) - origin[part]
