"""Workers that are one rank each, or several ranks that share a sharded model.

    mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("replicate", "shard"))

             shard 0  shard 1  shard 2  shard 3
    worker 0   0        1        2        3        gradients and shards: torch, along a row
    worker 1   4        5        6        7        rounds: a world is a column, mesh["replicate"]

Each rank exchanges its shards with those that hold the same ones of the other workers. What is said
of a whole model (its distance from the mean, whether it is finite) is summed along a row, and what
ranks agree on is agreed on by all: a row waits for each of its ranks at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hpc_localsgd.attach.shards import cut, ranks_of
from hpc_localsgd.engine.agreement import agree, check_same
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.torch import Torch, among

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

ONE_DIMENSION = (
    "give attach the one dimension of the mesh along which the model is repeated, "
    'mesh=mesh["replicate"], and fully_shard the other, mesh=mesh["shard"]'
)


@dataclass(frozen=True)
class RankGrid:
    """The ranks of all workers.

    Attributes:
        world: Those that hold the same shard as this one, one of each worker: who exchanges.
        everyone: All of them: who agrees. The same world where nothing is sharded.
        workers: [n] of everyone: the worker to which each rank belongs.
        columns: [n] the world of each, by a number.
    """

    world: World
    everyone: World
    workers: np.ndarray
    columns: np.ndarray

    @property
    def shards(self) -> int:
        """Number of ranks of a worker."""
        return self.everyone.n // self.world.n

    def total(self, value: float) -> float:
        """Return the sum over the ranks of one worker of what is the same in each world.

        A collective, not billed.
        """
        if self.shards == 1:
            return value
        rows = self.everyone.gather(np.array([[value]], dtype=np.float64))[:, 0]
        return float(rows[self.workers == 0].sum())

    def any_of(self, flags: np.ndarray) -> np.ndarray:
        """Return for each worker whether any of its ranks is flagged. Not billed.

        Args:
            flags: bool [K], of the workers, as this rank's world knows them.
        """
        if self.shards == 1:
            return flags
        rows = self.everyone.gather(flags[None, self.world.rank : self.world.rank + 1])[:, 0]
        return self.workers_of(rows)

    def workers_of(self, ranks: np.ndarray) -> np.ndarray:
        """Return for each of K workers whether any of its ranks is flagged, of flags [n]."""
        return np.array([bool(ranks[self.workers == k].any()) for k in range(self.world.n)])

    def alike(self, digests: np.ndarray) -> bool:
        """Return whether in every world, of several ranks, all have the same of these [n]."""
        same = [np.ptp(digests[self.columns == column]) == 0 for column in set(self.columns)]
        return self.world.n > 1 and all(same)


def alone(world: World) -> RankGrid:
    """Return the workers of a world, each of which is one rank."""
    return RankGrid(world, world, np.arange(world.n), np.zeros(world.n))


def grid_of(model: nn.Module, mesh: Any) -> RankGrid:
    """Join the ranks of a mesh. A collective.

    Args:
        model: Sharded over other dimensions of the same mesh, or whole on every rank.
        mesh: One dimension of a DeviceMesh.

    Raises:
        ConfigurationError: It is another object, or does not fit the model; on all ranks alike.
    """
    device = check_mesh(model, mesh)
    column = sorted(mesh.mesh.flatten().tolist())
    row = set().union(*(ranks_of(p) for p in model.parameters()))
    world = Torch(None, device, group=mesh.get_group())
    if not row:
        return _whole(world)
    rows = world.gather(np.array([[*sorted(row)]]))
    everyone = among(np.unique(rows).tolist(), device)
    placed = everyone.gather(np.array([[world.rank, column[0], len(row), world.n]]))
    mine = np.isin(np.unique(rows), sorted(row))  # ranks of this worker
    agree(everyone, lambda: _check_grid(placed, mine))
    agree(everyone, lambda: check_same(world, _cuts(model), ONE_DIMENSION))
    return RankGrid(world, everyone, placed[:, 0], placed[:, 1])


def check_mesh(model: nn.Module, mesh: Any) -> torch.device:
    """Check that a mesh is the dimension along which a model is repeated.

    Returns:
        The device on which this rank trains.

    Raises:
        ConfigurationError: It is not.
    """
    if type(mesh).__name__ != "DeviceMesh":
        raise ConfigurationError(f"mesh={mesh!r} is not a DeviceMesh: {ONE_DIMENSION}")
    if mesh.ndim != 1:
        raise ConfigurationError(
            f"the mesh has {mesh.ndim} dimensions, {mesh.mesh_dim_names or ''}: {ONE_DIMENSION}"
        )
    column = set(mesh.mesh.flatten().tolist())
    for name, parameter in model.named_parameters():
        if ranks_of(parameter) & column - {_own_rank(mesh)}:
            raise ConfigurationError(
                f"torch itself shards or averages {name} along the mesh given to attach, so that "
                f"no step would be local: {ONE_DIMENSION}"
            )
    device = next((p.device for p in model.parameters()), torch.device(mesh.device_type))
    if device.type != mesh.device_type:
        raise ConfigurationError(
            f"the model is on {device.type} and the mesh on {mesh.device_type}, where its ranks "
            "talk: put both on one (rounds do not exchange what CPUOffloadPolicy offloads)"
        )
    return device


def _own_rank(mesh: Any) -> int:
    return int(mesh.mesh.flatten()[mesh.get_local_rank()])


def _cuts(model: nn.Module) -> list[str]:
    return [f"the part of {name} {cut(p)}" for name, p in model.named_parameters()]


def _check_grid(placed: np.ndarray, mine: np.ndarray) -> None:
    """Check that the ranks form a grid of workers and shards, and one row are this worker's."""
    shards, K = int(placed[0, 2]), int(placed[0, 3])
    alike = (placed[:, 2:] == placed[0, 2:]).all()
    if len(placed) != K * shards or not alike or np.ptp(placed[mine, 0]):
        raise ConfigurationError(
            f"{len(placed)} ranks share shards with each other, and are not {K} workers of "
            f"{shards}: {ONE_DIMENSION}"
        )


def _whole(world: Torch) -> RankGrid:
    """Return the workers of a mesh without shards, which must then have all ranks."""
    if not world.everybody:
        raise ConfigurationError(
            f"the mesh given to attach has {world.n} ranks of the job and the model is not "
            "sharded, so that the others would train a model of their own: call fully_shard before "
            "attach (and make the optimizer after it), or give a mesh of all ranks"
        )
    return alone(world)
