"""Loops of a user with everything in them at once, and the same training without attach.

`with_attach` runs a loop on ranks that are threads. `without` has K models in one plain loop, and
calls the algorithm as the trainer does: with the gradients and the parameters of all workers, in a
simulated world. It knows of no hooks, buckets, flat storage, `no_sync` or saved states.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import torch
from loops import _SEEDED
from rank_threads import ThreadWorld, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import AllReduce, LocalSGD
from hpc_localsgd.algorithms.base import Algorithm

Noted = list[torch.Tensor]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.01, nesterov=True),
    "sgd one by one": lambda p: torch.optim.SGD(p, momentum=0.5, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p),
}


@dataclass(frozen=True)
class Loop:
    """What a user's loop does.

    Attributes:
        algorithm: What is done at the end of a round.
        K: Workers.
        lengths: H of the rounds.
        cut: Steps by which the last round is shorter: `finish` ends it, which was not told.
        optimizer: Of `OPTIMIZERS`.
        passes: Backward passes of a step.
        paused: Which of them are under `no_sync`: all but the last, none, all,
            or the last alone, which is a slip and must be averaged too.
        clip: Largest norm of a step's gradients; 0 for none.
        half: Whether a part of the model is in single precision, the rest in double.
        tied: Whether two layers have one weight.
        frozen: Whether there is a layer without gradient.
        branch: Whether there is a layer that only some ranks use in a step, or none.
        statistics: What happens to those of BatchNorm; "" for none.
        saved: Steps after which all is saved, and gone on from in another process.
        shown: Steps after which `averaged` is entered.
        peeked: Steps in which it is between the backward passes and the optimiser's step.
        skipped: Steps that an optimiser does not take, as with a GradScaler: that of one rank where
            each has its own gradients, of all where those are averaged.
        zero_late: Whether `zero_grad` follows the optimiser's step, and `sync.step` follows that.
        to_none: Whether `zero_grad` leaves no gradients.
        on_nan: As attach has it.
        bucket_bytes: As attach has it.
    """

    algorithm: Algorithm
    K: int
    lengths: tuple[int, ...]
    cut: int = 0
    optimizer: str = "sgd"
    passes: int = 1
    paused: Literal["but last", "none", "all", "last"] = "but last"
    clip: float = 0.0
    half: bool = False
    tied: bool = False
    frozen: bool = False
    branch: bool = False
    statistics: Literal["", "local", "average"] = ""
    saved: frozenset[int] = frozenset()
    shown: frozenset[int] = frozenset()
    peeked: frozenset[int] = frozenset()
    skipped: frozenset[int] = frozenset()
    zero_late: bool = False
    to_none: bool = True
    on_nan: Literal["stop", "quarantine"] = "stop"
    bucket_bytes: int = 64

    @property
    def steps(self) -> int:
        return sum(self.lengths) - self.cut

    @cached_property
    def begins(self) -> dict[int, int]:
        """First step of every round -> H."""
        return dict(zip(accumulate((0, *self.lengths)), self.lengths, strict=False))

    @property
    def averages_gradients(self) -> bool:
        """Whether the exchange of gradients is their plain average, made during backward."""
        plain = isinstance(self.algorithm, LocalSGD | AllReduce)
        return plain and (isinstance(self.algorithm, LocalSGD) or not self.algorithm.compressor)

    def exchanges_gradients(self, t: int) -> bool:
        """Whether step t has any gradients but a worker's own."""
        if isinstance(self.algorithm, LocalSGD):
            all_single = all(H == 1 for begin, H in self.begins.items() if begin <= t)
            return self.algorithm.average == "gradients" and all_single
        return type(self.algorithm).on_gradient is not Algorithm.on_gradient

    def length(self, t: int, lr: float) -> int:
        """What attach is given: a schedule that needs the rate of the round's first step."""
        assert lr == self.rate(t)
        return self.begins[t]

    def rate(self, t: int) -> float:
        return 0.02 * (1 + 0.4 * ((7 * t) % 5))

    def takes(self, rank: int, t: int) -> bool:
        """Whether a rank's optimiser takes step t."""
        if self.exchanges_gradients(t):
            return not (self.averages_gradients and t in self.skipped)
        return not (t in self.skipped and rank == t % self.K)

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """Two groups, of which the second is slower, with what is frozen in it."""
        of_all = list(model.parameters())
        return OPTIMIZERS[self.optimizer]([{"params": of_all[:2]}, {"params": of_all[2:]}])

    def set_rate(self, optimizer: torch.optim.Optimizer, t: int) -> None:
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = self.rate(t) / (1 + i)

    def losses(self, model: nn.Module, rank: int, t: int) -> Iterator[torch.Tensor]:
        """One for each backward pass."""
        for m in range(self.passes):
            stream = torch.Generator().manual_seed(10_000 * rank + 10 * t + m)
            x = torch.randn(5, 4, generator=stream, dtype=torch.float64) + 0.3 * rank
            y = torch.randn(5, 3, generator=stream, dtype=torch.float64)
            out = model(x, self.branch and (rank + t) % 4 == 0)
            yield (out.double() - y).square().mean() / self.passes


class Model(nn.Module):
    """4 -> 3, with the parts that a loop asks for."""

    def __init__(self, loop: Loop, seed: int) -> None:
        super().__init__()
        with _SEEDED:
            torch.manual_seed(seed)
            self.first = nn.Linear(4, 6)
            self.norm = nn.BatchNorm1d(6) if loop.statistics else nn.Identity()
            self.one, self.other = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
            self.branch, self.fixed = nn.Linear(6, 6), nn.Linear(6, 6)
            self.bend, self.last = nn.PReLU(), nn.Linear(6, 3)
        self.double()
        if loop.half:
            self.last.float()
        if loop.tied:
            self.other.weight = self.one.weight
        self.fixed.requires_grad_(not loop.frozen)

    def forward(self, x: torch.Tensor, branch: bool) -> torch.Tensor:
        h = self.norm(torch.tanh(self.first(x)))
        h = h + self.bend(self.other(torch.tanh(self.one(h)))) + self.fixed(h).sin()
        h = h + self.branch(h) if branch else h
        out: torch.Tensor = self.last(h.to(self.last.weight.dtype))
        return out


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [b for b in model.buffers() if b.is_floating_point()]


def everything(model: nn.Module) -> torch.Tensor:
    """Parameters and running statistics, one vector in double precision."""
    both = [*model.parameters(), *statistics(model)]
    return torch.cat([x.detach().double().flatten() for x in both])


def with_attach(loop: Loop) -> list[Noted]:
    """What every rank held after every `sync.step()`, in `averaged` after it, and at the end."""
    return on_ranks(loop.K, lambda world: _rank(loop, world))


def _rank(loop: Loop, world: ThreadWorld) -> Noted:
    def begun(seed: int, world: ThreadWorld) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        model = Model(loop, seed)
        optimizer = loop.optimizer_of(model)
        loop.set_rate(optimizer, 0)
        sync = hpc_localsgd.attach(
            model,
            optimizer,
            algorithm=loop.algorithm,
            schedule=loop.length,
            world=world,
            steps=None if loop.cut else loop.steps,
            batchnorm=loop.statistics or "local",
            on_nan=loop.on_nan,
            bucket_bytes=loop.bucket_bytes,
        )
        return model, optimizer, sync

    model, optimizer, sync = parts = begun(world.rank, world)  # of which rank 0's is taken
    noted = []
    for t in range(loop.steps):
        loop.set_rate(optimizer, t)
        if not loop.zero_late:
            optimizer.zero_grad(set_to_none=loop.to_none)
        for m, loss in enumerate(loop.losses(model, world.rank, t)):
            last = m + 1 == loop.passes
            paused = loop.paused in ("all", "last" if last else "but last")
            with sync.no_sync() if paused else nullcontext():
                loss.backward()
        if t in loop.peeked:
            with sync.averaged():
                noted.append(everything(model))
        if loop.clip:
            nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        if loop.takes(world.rank, t):
            optimizer.step()
        if loop.zero_late:
            optimizer.zero_grad(set_to_none=loop.to_none)
        sync.step()
        noted.append(everything(model))
        if t in loop.shown:
            with sync.averaged():
                noted.append(everything(model))
        if t in loop.saved and t + 1 < loop.steps:
            file = io.BytesIO()
            torch.save([part.state_dict() for part in parts], file)
            sync.detach()
            file.seek(0)
            model, optimizer, sync = parts = begun(7, world.restarted())
            for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
                part.load_state_dict(state)
    sync.finish()
    return [*noted, everything(model)]
