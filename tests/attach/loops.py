"""Small models, a user's own loop, and the same training written out in plain PyTorch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import nn

import hpc_localsgd
from hpc_localsgd import (
    AllReduce,
    GradientTracking,
    Hierarchical,
    LocalSGD,
    StreamingDiLoCo,
    every,
    post_local,
)
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach import Sync
from hpc_localsgd.compressors import Int8, Sign
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated

_SEEDED = threading.Lock()  # ranks that are threads share the global random numbers
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def net(seed: int = 0, norm: bool = False) -> nn.Module:
    """Convolution, perhaps BatchNorm, two linear layers: 3 x 6 x 6 -> 4."""
    with _SEEDED:
        torch.manual_seed(seed)
        middle: list[nn.Module] = [nn.BatchNorm2d(5)] if norm else []
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(80, 7), nn.Linear(7, 4)
        )


def batch(rank: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [6, 3, 6, 6] and targets [6, 4] of one worker's step."""
    stream = torch.Generator().manual_seed(1000 * rank + t)
    x = torch.randn(6, 3, 6, 6, generator=stream) + rank
    return x, torch.randn(6, 4, generator=stream)


def loss_of(model: nn.Module, rank: int, t: int) -> torch.Tensor:
    x, y = batch(rank, t)
    return (model(x) - y).square().mean()


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def attached(
    model: nn.Module | None = None, optimizer: str = "sgd", world: World | None = None, **given: Any
) -> tuple[nn.Module, torch.optim.Optimizer, Sync]:
    """A model with an optimiser, attached; alone with H = 3 if nothing else is said."""
    model = model or net()
    made = OPTIMIZERS[optimizer](p for p in model.parameters() if p.requires_grad)
    given = {"schedule": every(3)} | given
    return model, made, hpc_localsgd.attach(model, made, world=world or Simulated(1), **given)


def steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sync: Sync | None,
    ts: Iterable[int],
    rank: int = 0,
) -> None:
    """The loop of a user."""
    for t in ts:
        optimizer.zero_grad()
        loss_of(model, rank, t).backward()
        optimizer.step()
        if sync is not None:
            sync.step()


def in_plain_torch(K: int, T: int, rounds: dict[int, int], optimizer: str = "sgd") -> torch.Tensor:
    """K workers in a plain loop; the parameters after T steps and a last average.

    Args:
        K: Workers.
        T: Steps.
        rounds: First step of each round -> H. Rounds of one step average gradients.
        optimizer: Of `OPTIMIZERS`.
    """
    models = [net()]
    models += [copy.deepcopy(models[0]) for _ in range(K - 1)]
    optimizers = [OPTIMIZERS[optimizer](model.parameters()) for model in models]
    end = 0
    for t in range(T):
        end = t + rounds[t] if t in rounds else end
        for k in range(K):
            optimizers[k].zero_grad()
            loss_of(models[k], k, t).backward()
        together = list(zip(*(model.parameters() for model in models), strict=True))
        if rounds.get(t) == 1:
            for same in together:
                mean = torch.stack([p.grad for p in same]).sum(0) / K
                for p in same:
                    p.grad = mean.clone()
        for one in optimizers:
            one.step()
        if rounds.get(t) != 1 and (t + 1 == end or t + 1 == T):
            for same in together:
                mean = torch.stack([p.detach() for p in same]).sum(0) / K
                for p in same:
                    p.data.copy_(mean)
    return parameters(models[0])


POST_LOCAL_4_3 = {0: 1, 1: 1, 2: 1, 3: 1, 4: 3, 7: 3, 10: 3}  # post_local(switch=4, every=3)


def everyone_equal(results: list[torch.Tensor]) -> torch.Tensor:
    assert all(torch.equal(results[0], other) for other in results[1:])
    return results[0]


def of_the_folder() -> list[Any]:
    special: dict[str, Algorithm] = {
        "streaming_diloco": StreamingDiLoCo(fragments=1, delay=2),
        "hierarchical": Hierarchical(blocks=(2,), rounds=(2,)),
    }
    from hpc_localsgd.commands.configuration.config import choices

    paths = sorted(choices("algorithm").items())
    made = [special.get(name) or at_its_defaults(path) for name, path in paths]
    return [*made, LocalSGD(compressor=Sign()), AllReduce(compressor=Int8())]


def at_its_defaults(path: str) -> Any:
    """A class by its path, for a file someone added is not among the names of the package."""
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)()


def schedule_for(algorithm: Algorithm) -> Schedule:
    return every(1) if isinstance(algorithm, GradientTracking) else post_local(switch=3, every=4)
