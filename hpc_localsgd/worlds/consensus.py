"""The consensus distance: how far the workers are from their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector
    from hpc_localsgd.worlds.base import World

BLOCK = 1 << 20  # parameters that are looked at at a time


def consensus_distance(x: Rows, mean: Vector | None, world: World) -> float:
    """Return mean_k ||x_k - mean||^2 of the rows x [R, P], on every rank.

    A collective, not billed.

    Args:
        x: [R, P]; kept as it is.
        mean: [P], if it is known already; else it is found by an average of the parameters.
        world: Who the workers are.
    """
    with world.ledger.unbilled():
        mean = world.mean(x.clone())[0] if mean is None else mean
        return float(world.gather(squared_distances(x, mean).cpu().numpy()).mean())


def squared_distances(x: Rows, point: Vector) -> Rows:
    """Return ||x_r - point||^2 of the rows x [R, P], in float64 [R].

    Block by block: in one piece, fresh memory for copies in float64 takes longer than the rest.
    """
    blocks = zip(x.split(BLOCK, dim=1), point.split(BLOCK), strict=True)
    return sum(((a - b).double().square().sum(1) for a, b in blocks), x.new_zeros(len(x)).double())
