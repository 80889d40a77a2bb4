"""Parameters that torch shards: DTensors, of `fully_shard` or of a mesh of the user's own.

Which part of a parameter lives on this rank, and which ranks share it, is known by the tensor
itself (`device_mesh` and `placements`), so nothing of torch.distributed is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_localsgd.attach.storage import Group


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    return type(tensor.data).__name__ == "DTensor"


@torch.no_grad()
def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor, in the same memory; of a plain one, itself."""
    held: Any = tensor.detach()
    part: torch.Tensor = held.to_local() if is_sharded(held) else held
    return part


@torch.no_grad()
def local_gradient(parameter: nn.Parameter) -> torch.Tensor:
    """Return this rank's part of a parameter's gradient, cut as the parameter is.

    Where it is a sum that is still to be made (tensor parallelism), it is made now: a collective of
    the ranks that share the parameter.
    """
    grad: Any = parameter.grad
    owner: Any = parameter.detach()
    if is_sharded(owner) and grad.placements != owner.placements:
        grad = grad.redistribute(placements=owner.placements)
    return local(grad)


def ranks_of(parameter: torch.Tensor) -> set[int]:
    """Return the ranks, as torch counts them, that share a parameter; none of a plain one."""
    held: Any = parameter.detach()
    return set(held.device_mesh.mesh.flatten().tolist()) if is_sharded(held) else set()


def copies(parameter: torch.Tensor, ranks: int) -> int:
    """Return how many of the ranks of one worker hold the same numbers of a parameter.

    Args:
        parameter: Sharded or plain.
        ranks: Of one worker.
    """
    held: Any = parameter.detach()
    if not is_sharded(held):
        return ranks
    sharers = 1
    for placement, size in zip(held.placements, held.device_mesh.shape, strict=True):
        sharers *= 1 if placement.is_replicate() else size
    return ranks // sharers


def uneven(parameter: torch.Tensor) -> bool:
    """Return whether the ranks that share a parameter have parts of different shapes."""
    held: Any = parameter.data
    if not is_sharded(held):
        return False
    cuts = zip(held.placements, held.device_mesh.shape, strict=True)
    return any(each.is_shard() and held.shape[each.dim] % size for each, size in cuts)


def cut(parameter: torch.Tensor) -> str:
    """Describe how a parameter is cut, and which part this rank has; "" of a plain one."""
    held: Any = parameter.detach()
    if not is_sharded(held):
        return ""
    return f"{list(held.placements)} at {held.device_mesh.get_coordinate()}"


def gathered(model: nn.Module) -> list[Any]:
    """Return the modules whose parameters `fully_shard` gathers for a forward pass."""
    kinds = [(m, [kind.__name__ for kind in type(m).__mro__]) for m in model.modules()]
    return [module for module, names in kinds if "FSDPModule" in names]


def reshard(modules: Iterable[Any]) -> None:
    """Let go of parameters that a forward pass has gathered: the next one takes them anew.

    The outermost module keeps them after a forward pass without a backward pass (an evaluation),
    and would keep using them after the shards have changed.
    """
    for module in modules:
        module.reshard()


@dataclass(frozen=True)
class ShardGroup(Group):
    """Parameters of which this rank holds a part, in the memory where torch keeps it.

    They are not moved into a vector: `fully_shard` remembers where they are (with room for an
    uneven last part), and moves them itself before the first step.
    """

    @property
    def tensors(self) -> list[torch.Tensor]:
        """This rank's parts, some perhaps without a number."""
        return [local(parameter) for parameter in self.parameters]

    @property
    def parts(self) -> list[torch.Tensor]:
        """The same."""
        return self.tensors

    def check_memory(self) -> None:
        """Accept any memory: torch moves shards itself, and they are asked for each time."""

    def gradient(self, i: int, view: torch.Tensor) -> torch.Tensor:
        """Return a view as a sharded gradient of parameter i, in the same memory."""
        held: Any = self.parameters[i].detach()
        made: torch.Tensor = type(held).from_local(
            view,
            held.device_mesh,
            held.placements,
            run_check=False,
            shape=held.shape,
            stride=held.stride(),
        )
        return made
