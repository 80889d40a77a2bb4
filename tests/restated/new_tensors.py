"""What an algorithm may do and those of the package do not: return tensors of its own."""

from __future__ import annotations

from typing import Any

from hpc_localsgd.algorithms.base import Algorithm


class NewTensors(Algorithm):
    """Another algorithm that leaves what it is given alone and returns tensors of its own."""

    def __init__(self, of: Algorithm) -> None:
        self.of, self.ends_equal = of, of.ends_equal

    def __repr__(self) -> str:
        return f"NewTensors({self.of})"

    def init(self, x: Any, world: Any, model: Any) -> Any:
        return self.of.init(x.clone(), world, model)

    def on_gradient(self, g: Any, state: Any, world: Any, now: Any) -> Any:
        return self.of.on_gradient(g.clone(), state, world, now)

    def acts_on_step(self, state: Any, now: Any) -> bool:
        return self.of.acts_on_step(state, now)

    def on_step(self, x: Any, state: Any, world: Any, now: Any) -> Any:
        return self.of.on_step(x.clone(), state, world, now)

    def on_sync(self, x: Any, state: Any, world: Any, now: Any) -> Any:
        return self.of.on_sync(x.clone(), state, world, now)

    def payload(self, model: Any, K: int, now: Any) -> Any:
        return self.of.payload(model, K, now)
