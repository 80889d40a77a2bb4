"""DiLoCo: an outer optimiser on the difference that a round of local steps made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, compressed_mean
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.without_compiler import spare_the_compiler, take_step

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class DiLoCo(Algorithm):
    """Distributed low-communication training.

        delta <- anchor - mean_k x_k        anchor <- outer(anchor, delta)        x_k <- anchor

    The outer optimiser is any of torch.optim; the default is SGD with Nesterov momentum. The local
    optimiser's state stays local and is kept (the paper: AdamW, H = 500).

    Source: Douillard et al., arXiv:2311.08105. The difference is old minus new: torchft's snapshots
        have it the wrong way round.
    Sends: P numbers per worker and round; with a compressor its code of anchor - x_k.
    Equals: LocalSGD(average="parameters") when lr = 1 and momentum = 0.

    Attributes:
        lr: Outer learning rate.
        momentum: Outer momentum, if the outer optimiser has one.
        optimizer: Class of torch.optim.
        options: Its further arguments.
        compressor: How the differences are coded.
    """

    lr: float = 0.7
    momentum: float = 0.9
    optimizer: str = "SGD"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    compressor: Compression | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigurationError(
                f"diloco: lr must be positive, or the anchor never moves, got {self.lr}"
            )
        try:
            self.outer(torch.zeros(1))
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"diloco: torch.optim.{self.optimizer} cannot be the outer optimiser: {error}"
            ) from error

    def outer(self, anchor: torch.Tensor) -> torch.optim.Optimizer:
        """Return a new outer optimiser of the anchor [P].

        Raises:
            TypeError: torch.optim has something else under that name.
        """
        own = {"momentum": self.momentum, "nesterov": self.momentum > 0}
        options = {**(own if self.optimizer == "SGD" else {}), **self.options}
        kind = getattr(torch.optim, self.optimizer)
        base = torch.optim.Optimizer
        if not (isinstance(kind, type) and issubclass(kind, base) and kind is not base):
            raise TypeError("it is not an optimiser")
        make: Callable[..., torch.optim.Optimizer] = kind
        spare_the_compiler()
        return make([anchor], lr=self.lr, **options)

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `anchor` [P] and the state of the outer optimiser."""
        del world
        anchor = x[0].clone()
        outer = self.outer(anchor).state_dict()
        return {"anchor": anchor, "outer": outer, **coded_state(self.compressor, x, model)}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the anchor after an outer step, on every worker."""
        del now
        anchor, memory = state["anchor"], state["memory"]
        x.sub_(anchor).neg_()  # anchor - x_k
        delta, memory = compressed_mean(x, self.compressor, memory, state["sizes"], world)
        outer = self.outer(anchor)
        outer.load_state_dict(state["outer"])
        anchor.grad = delta[0]
        take_step(outer)
        anchor.grad = None
        x[:] = anchor
        return x, {**state, "memory": memory, "outer": outer.state_dict()}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one (encoded) difference a round."""
        del K, now
        return coded_bytes(self.compressor, model)
