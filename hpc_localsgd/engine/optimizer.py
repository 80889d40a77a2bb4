"""The local optimiser: `torch.optim` itself, on the flat storage of all workers at once.

The optimiser sees two tensors, the part of x that takes weight decay and the part that does not.
Every element-wise optimiser (SGD, Adam, AdamW, ...) then steps all R workers in one call. One that
needs whole matrices (Muon) steps each worker's matrices of hidden layers, and AdamW the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from hpc_localsgd.engine.matrix_optimizer import MatrixOptimizer, Shapes, looks_at_matrices, runs
from hpc_localsgd.engine.non_finite import named_state_like, replace_by_mean, state_like
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.without_compiler import spare_the_compiler, take_step

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Now, Rows
    from hpc_localsgd.worlds.base import World

MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
AtSync = Literal["keep", "average", "reset"]
_REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, KeyError)
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # on a CPU and on a GPU


class LocalOptimizer:
    """One torch optimiser for the rows x [R, P] of the workers of this process.

    What happens to its state (momentum, Adam's moments) at the end of a round of local steps is a
    choice: "keep" leaves each worker its own, as all released codes of the papers do; "average"
    averages it with the parameters, which doubles what is sent; "reset" forgets it.

    Averages of a moment may be rarer than those of the parameters, each moment at periods of its
    own, as in DES-LOC (Iacob et al. 2025): what changes slowly need not be averaged often.
    """

    def __init__(
        self,
        make: MakeOptimizer,
        task: Task,
        at_sync: AtSync = "keep",
        moments_every: Mapping[str, int] | None = None,
    ) -> None:
        """Wrap the storage of a task, without copying it.

        Args:
            make: Makes the optimiser from parameter groups, e.g. `partial(SGD, momentum=0.9)`.
            task: Gives x [R, P] and how many of its columns take weight decay.
            at_sync: "keep", "average" or "reset".
            moments_every: With "average", rounds between two averages of a moment, by the name
                that torch gives it; 1 for those without a name here.

        Raises:
            ConfigurationError: The optimiser refuses its hyper-parameters or parameter groups,
                does not step each worker's row by itself, or has no such moments.
        """
        spare_the_compiler()
        self.at_sync = at_sync
        self.moments_every = dict(moments_every or {})
        of_matrices = looks_at_matrices(make)
        cuts: list[tuple[int, int, Shapes]] = [(0, task.decayed, ()), (task.decayed, task.dim, ())]
        cuts = runs(task) if of_matrices else cuts
        self._cuts, self._dim = [(a, b) for a, b, _ in cuts], task.dim
        parameters = [nn.Parameter(task.x[:, a:b], requires_grad=True) for a, b in self._cuts]
        groups: list[dict[str, Any]] = [{"params": [p]} for p in parameters if p.numel()]
        try:
            shapes = [shapes for _, _, shapes in cuts]
            self.torch = MatrixOptimizer(make, parameters, shapes) if of_matrices else make(groups)
        except _REFUSALS as error:  # torch's own, which names the hyper-parameter
            raise ConfigurationError(f"--optimizer: {error}") from error
        if not of_matrices:
            check_by_rows(make)
        self._check_moments(make)
        if len(task.x) == 1:
            fuse(self.torch)
        elif self.torch.defaults.get("fused"):
            raise ConfigurationError(
                f"--optimizer.fused true needs contiguous parameters, and the {len(task.x)} "
                "workers of this process are rows with gaps between them: leave it out"
            )
        if task.decayed < task.dim and "weight_decay" in self.torch.defaults:
            self.torch.param_groups[-1]["weight_decay"] = 0.0  # the runs end where decay does
        self._parameters = parameters

    def step(self, g: Rows, lr: float) -> None:
        """Take a step of all R workers along the gradients g [R, P] with learning rate lr."""
        for parameter, (a, b) in zip(self._parameters, self._cuts, strict=True):
            parameter.grad = g[:, a:b]
        for group in self.torch.param_groups:
            group["lr"] = lr
        take_step(self.torch)

    def on_sync(self, world: World, now: Now) -> None:
        """Keep, average or reset the state, after a round of local steps (H > 1)."""
        if self.at_sync == "keep" or now.H == 1:
            return
        if self.at_sync == "reset":
            self.torch.state.clear()
            return
        for name, tensor in named_state_like(self.torch, self._parameters):
            if self._due(name, now):
                world.mean(tensor)

    def averages(self, now: Now) -> float:
        """Return how many numbers a parameter `on_sync` averages, after a step has been taken."""
        if self.at_sync != "average" or now.H == 1:
            return 0
        named = named_state_like(self.torch, self._parameters)
        return sum(t.shape[1] for name, t in named if self._due(name, now)) / self._dim

    def _due(self, name: str, now: Now) -> bool:
        return (now.s + 1) % self.moments_every.get(name, 1) == 0

    def _check_moments(self, make: MakeOptimizer) -> None:
        if not self.moments_every:
            return
        if self.at_sync != "average":
            raise ConfigurationError("--moments-every needs --momentum-at-sync average: type both")
        kinds = [make, torch.optim.AdamW] if looks_at_matrices(make) else [make]
        has = [name for kind in kinds for name in _moments_of(kind)]
        for name, every in self.moments_every.items():
            if name not in has:
                raise ConfigurationError(
                    f"--moments-every: {described(self.torch)} has no moment {name!r}, but "
                    f"{', '.join(has) or 'none at all'}"
                )
            if every < 1:
                raise ConfigurationError(
                    f"--moments-every: {name} is averaged every {every} rounds: type 1 or more"
                )

    def forget(self, rows: np.ndarray) -> None:
        """Set momenta and moments of some workers, bool [R], to 0; the count of steps stays."""
        for tensor in self.row_state():
            tensor[torch.from_numpy(rows).to(tensor.device)] = 0

    def leave_out(self, bad: np.ndarray, world: World) -> None:
        """Reset the state of the workers `bad` [K], who continue from the mean of the others.

        Where rounds average the state, they get the others' mean of it instead: zeros would shrink
        that average. A collective then, not billed.
        """
        if self.at_sync != "average":
            self.forget(bad[list(world.local_workers)])
            return
        for tensor in self.row_state():
            replace_by_mean(tensor, bad, world)

    def row_state(self) -> list[torch.Tensor]:
        """Return the state tensors that have one row for each worker, in a fixed order."""
        return state_like(self.torch, self._parameters)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the torch optimiser of these R workers."""
        return self.torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        # How a step is computed depends on how many workers this process has.
        own = [{"fused": g["fused"]} if "fused" in g else {} for g in self.torch.param_groups]
        groups = [{**g, **mine} for g, mine in zip(state["param_groups"], own, strict=True)]
        self.torch.load_state_dict({**state, "param_groups": groups})


def _moments_of(make: MakeOptimizer) -> list[str]:
    """Return torch's names of the state that an optimiser keeps for each parameter."""
    x = nn.Parameter(torch.ones(1, 1))
    optimizer = make([{"params": [x]}])
    x.grad = torch.ones(1, 1)
    take_step(optimizer)
    return [name for name, _ in named_state_like(optimizer, [x])]


def described(optimizer: torch.optim.Optimizer) -> str:
    """Format an optimiser and its arguments as typed; the rate and switched-off options aside.

    >>> described(torch.optim.SGD([torch.zeros(1)], momentum=0.9))
    'SGD(momentum=0.9, dampening=0, weight_decay=0)'
    """
    given = {k: v for k, v in optimizer.defaults.items() if k != "lr"}
    shown = (f"{k}={v}" for k, v in given.items() if v is not None and v is not False)
    name = getattr(optimizer, "shown_as", type(optimizer).__name__)
    return f"{name}({', '.join(shown)})"


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let torch step in one pass over memory, where possible and unless asked otherwise.

    On a CPU a step of SGD then takes 0.4 of the time (4 million parameters, one core). Not for
    several rows: the fused kernels round differently at the ends of a row, and workers that are
    equal would not stay so in every bit.
    """
    asked = [optimizer.defaults.get(name) for name in ("fused", "foreach", "differentiable")]
    if type(optimizer) in _FUSED and asked[0] is None and not any(asked):
        for group in optimizer.param_groups:
            group["fused"] = True


def check_by_rows(make: MakeOptimizer) -> None:
    """Check that an optimiser steps every row of a matrix by itself, as separate workers would.

    Raises:
        ConfigurationError: It does not (Adafactor), or needs a closure or sparse gradients.
    """
    gradients = [torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]), torch.ones(2, 3)]

    def moved(rows: slice) -> torch.Tensor:
        x = nn.Parameter(torch.full((2, 3), 2.0)[rows])
        optimizer = make([{"params": [x]}])
        for g in gradients:
            x.grad = g[rows].clone()
            take_step(optimizer)
        return x.detach()

    try:
        alone = torch.cat([moved(slice(0, 1)), moved(slice(1, 2))])
        together = moved(slice(0, 2))
    except _REFUSALS as error:
        raise ConfigurationError(f"this optimiser cannot take plain steps: {error}") from error
    if not torch.allclose(alone, together, rtol=1e-5, atol=1e-7):
        raise ConfigurationError(
            "this optimiser steps a parameter matrix as a whole, and here the rows of the "
            "matrix are workers: use an element-wise one (SGD, Adam, AdamW, RMSprop, ...)"
        )
