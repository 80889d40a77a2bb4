"""Workers whose numbers are not finite: which they are, and how they continue.

The trainer (`--on-nan`) and `attach(on_nan=...)` have the same two choices: to stop, or to put a
worker into quarantine, which leaves it out of the exchange and gives it the mean of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World

OnNan = Literal["stop", "quarantine"]


def non_finite_workers(xs: Sequence[Rows], world: World) -> np.ndarray:
    """Return which workers have a number that is not finite: bool [K]. A collective, not billed.

    Args:
        xs: One or several arrays with a row for each worker of this process.
        world: Whose workers.
    """
    finite = torch.stack([torch.isfinite(x).all(1).cpu() for x in xs]).all(0)
    return world.gather((~finite).numpy())


def replace_by_mean(x: Rows, bad: np.ndarray, world: World) -> None:
    """Replace the rows of the workers `bad` [K] by the mean of the others', in place. Not billed.

    Nothing happens when there are none, or all are.
    """
    if not bad.any() or bad.all():
        return
    own = torch.from_numpy(bad[list(world.local_workers)]).to(x.device)
    with world.ledger.unbilled():
        others = torch.where(own[:, None], torch.zeros_like(x), x)
        mean = world.mean(others)[0] * (len(bad) / (len(bad) - int(bad.sum())))
    x[own] = mean


def state_like(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]
) -> list[torch.Tensor]:
    """List the state tensors that have their parameter's shape, in a fixed order.

    Momentum and moments; not a count of steps, also where the parameter is a single number.
    """
    return [tensor for _, tensor in named_state_like(optimizer, parameters)]


def named_state_like(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]
) -> list[tuple[str, torch.Tensor]]:
    """List them with the names that torch gives them: momentum_buffer, exp_avg, exp_avg_sq, ..."""
    return [
        (name, tensor)
        for parameter in parameters
        for name, tensor in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(tensor, torch.Tensor) and tensor.shape == parameter.shape and name != "step"
    ]


def message(bad: np.ndarray, where: str, who: str = "worker") -> str:
    """Return the message about workers `bad` [K] that were left out of an exchange."""
    those = ", ".join(str(k) for k in np.flatnonzero(bad))
    return (
        f"{where}: the numbers of {who} {those} are not finite: left out, and given the mean of "
        "the others"
    )
