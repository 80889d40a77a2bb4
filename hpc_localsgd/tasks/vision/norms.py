"""The norm of an image model: BatchNorm, GroupNorm in its place, or ghost BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError

Norm: TypeAlias = Literal["batch", "group", "ghost"]
MakeNorm: TypeAlias = Callable[[int], nn.Module]  # of so many channels


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over ghost batches: `ghost` samples at a time, instead of the whole batch.

    Source: Hoffer et al. 2017. In evaluation it is BatchNorm. Differs from the source: the running
    statistics take the mean over the ghost batches of a step, as if they were one batch, instead
    of one update after another.
    """

    def __init__(self, channels: int, ghost: int) -> None:
        super().__init__(channels)
        self.ghost = ghost

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise each ghost batch of inputs [B, C, H, W]; the last one may be smaller."""
        if not self.training or len(input) <= self.ghost:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        counted = self.momentum is None  # torch's spelling of a cumulative mean
        share = 1.0 / float(self.num_batches_tracked) if counted else float(self.momentum or 0.0)
        parts = [_normalised(part, self) for part in input.split(self.ghost)]
        with torch.no_grad():
            for i, running in ((1, self.running_mean), (2, self.running_var)):
                seen = torch.stack([part[i] for part in parts]).mean(0)
                running.lerp_(seen.to(running.dtype), share)
        return torch.cat([part[0] for part in parts])


def _normalised(
    part: torch.Tensor, norm: GhostBatchNorm2d
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one ghost batch, with its own mean [C] and unbiased variance [C]."""
    mean, var = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)  # type: ignore[arg-type]
    out = nn.functional.batch_norm(
        part, mean, var, norm.weight, norm.bias, True, 1.0, norm.eps
    )  # momentum 1: mean and var become those of this part
    return out, mean, var


def make_norm(norm: Norm, groups: int, ghost: int) -> MakeNorm:
    """Return a function that makes the norm of a number of channels.

    Raises:
        ConfigurationError: A number is below 1; or, when the function is called, the channels
            cannot be cut into so many groups.
    """
    if min(groups, ghost) < 1:
        raise ConfigurationError(
            f"--task.groups {groups} and --task.ghost {ghost} must be at least 1"
        )

    def group(channels: int) -> nn.Module:
        if channels % groups:
            raise ConfigurationError(
                f"--task.groups {groups}: the model has a norm of {channels} channels, which so "
                "many groups do not divide"
            )
        return nn.GroupNorm(groups, channels)

    made: dict[str, MakeNorm] = {
        "batch": nn.BatchNorm2d,
        "group": group,
        "ghost": lambda channels: GhostBatchNorm2d(channels, ghost),
    }
    return made[norm]


def replace_norms(module: nn.Module, make: MakeNorm) -> int:
    """Replace every BatchNorm2d of a module by another norm; return how many there were.

    Weights and biases are those of the replaced ones (a zero-initialised last norm stays so).
    """
    found = 0
    for name, child in list(module.named_children()):
        if type(child) is nn.BatchNorm2d:
            norm = make(child.num_features)
            norm.weight, norm.bias = child.weight, child.bias
            for option in ("eps", "momentum"):
                if hasattr(norm, option):
                    setattr(norm, option, getattr(child, option))
            setattr(module, name, norm)
            found += 1
        else:
            found += replace_norms(child, make)
    return found
