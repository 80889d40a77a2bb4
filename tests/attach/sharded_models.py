"""Models that `fully_shard` cuts in two, and the same models whole, each with its `attach`.

Two workers of two ranks each; each of the two columns of the mesh trains the whole model too, with
the whole batch of its worker. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import hpc_localsgd
from hpc_localsgd.attach import Sync
from hpc_localsgd.worlds.torch import Torch

WORKERS, SHARDS, T = 2, 2, 4
SAMPLES = 4  # of a worker at a step; its ranks share them
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "muon": lambda p: torch.optim.Muon(p, lr=0.05, weight_decay=0.1),
}


def net(seed: int = 0) -> nn.Sequential:
    """3 -> 5 -> 4 -> 1: two ranks have 3 and 2 of 5 rows, and of one row the second has none."""
    layers = nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)
    ).double()
    stream = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.5, generator=stream)
    return layers


def sharded(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    fully_shard(model[2], mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    return model


def batch(worker: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(1000 * worker + t)
    x = torch.randn(SAMPLES, 3, generator=stream, dtype=torch.float64) + worker
    return x, x.sum(1, keepdim=True).sin()


def whole(model: nn.Module) -> torch.Tensor:
    """All parameters, gathered from a worker's ranks."""
    gathered = [p.detach() for p in model.parameters()]
    return torch.cat([getattr(p, "full_tensor", lambda p=p: p)().reshape(-1) for p in gathered])


def column(mesh: DeviceMesh) -> Torch:
    """The two workers, as ranks that are one worker each."""
    return Torch(group=mesh["replicate"].get_group())


class Side:
    """A model, its optimiser and its attach, and this rank's part of its worker's batch."""

    def __init__(
        self,
        mesh: DeviceMesh,
        optimizer: str,
        shards: bool,
        given: dict[str, Any],
        model: nn.Module | None = None,
    ) -> None:
        self.worker = mesh.get_local_rank("replicate")
        place = mesh.get_local_rank("shard")
        part = SAMPLES // SHARDS
        self.mine = slice(part * place, part * (place + 1)) if shards else slice(None)
        self.model: Any = model or (sharded(net(), mesh) if shards else net())
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        company = {"mesh": mesh["replicate"]} if shards else {"world": column(mesh)}
        self.sync: Sync = hpc_localsgd.attach(self.model, self.optimizer, **company, **given)

    def loss(self, t: int) -> torch.Tensor:
        kept = next(iter(self.model.parameters())).dtype
        x, y = (each[self.mine].to(kept) for each in batch(self.worker, t))
        return (self.model(x) - y).square().mean()

    def train(self, ts: range, clips: bool = True) -> None:
        for t in ts:
            self.optimizer.zero_grad()
            self.loss(t).backward()
            if clips:  # the norm of the whole model's
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.8)
            self.optimizer.step()
            self.sync.step()


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def same_everywhere(x: torch.Tensor) -> None:
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, x.contiguous())
    assert all(torch.equal(rows[0], row) for row in rows)


class Scaled(nn.Module):
    """A model that is sharded but for a vector."""

    def __init__(self, mesh: DeviceMesh, shards: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))
        self.net = net()
        if shards:
            fully_shard(self, mesh=mesh["shard"], ignored_params={self.scale})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(x * self.scale)
        return made


class Model(nn.Module):
    """A model of two equal layers in the middle, in the forms that people have."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.begin, self.one, self.two, self.end = (
            nn.Linear(*size, dtype=torch.float64) for size in ((3, 5), (5, 5), (5, 5), (5, 1))
        )
        stream = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=stream)
        if form == "tied":
            self.two.weight = self.one.weight
        if form == "frozen":  # as a base model is, beside the adapters that are trained
            for layer in (self.begin, self.one):
                layer.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.begin(x).tanh()
        if self.form == "checkpointed":
            middle: torch.Tensor = checkpoint(self._middle, x, use_reentrant=False)
            made: torch.Tensor = self.end(middle)
            return made
        return self.end(self._middle(x))

    def _middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).tanh()).tanh()
