"""What a drawn loop should give: K models side by side, and the algorithm in a simulated world."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from drawn_loops import Loop, Model, Noted, everything, statistics
from torch import nn

from hpc_localsgd.engine.position import RoundPosition
from hpc_localsgd.types import ModelSize
from hpc_localsgd.worlds.simulated import Simulated

if TYPE_CHECKING:
    from hpc_localsgd.types import Now, Rows, State


class Workers:
    """K models, and what the algorithm remembers of their parameters of each dtype."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.world = loop, Simulated(loop.K)
        first = Model(loop, 0)
        self.models = [first, *(copy.deepcopy(first) for _ in range(loop.K - 1))]
        self.optimizers = [loop.optimizer_of(model) for model in self.models]
        trained = [[p for p in m.parameters() if p.requires_grad] for m in self.models]
        kinds = list(dict.fromkeys(p.dtype for p in trained[0]))
        # Of each dtype: the parameters of every worker.
        self.parts = [[[p for p in own if p.dtype == kind] for own in trained] for kind in kinds]
        self.states: list[State] = []
        for part in self.parts:
            size = ModelSize.of(p.shape for p in part[0])
            self.states.append(loop.algorithm.init(rows(part), self.world, size))

    @torch.no_grad()
    def exchange(self, rule: Callable[..., tuple[Rows, State]], now: Now) -> None:
        """Call `on_step` or `on_sync`."""
        for i, part in enumerate(self.parts):
            x, self.states[i] = rule(rows(part), self.states[i], self.world, now)
            put(x, part)

    @torch.no_grad()
    def exchange_gradients(self, now: Now) -> None:
        """Call `on_gradient`; a parameter that no worker has used stays without a gradient."""
        loop = self.loop
        for i, part in enumerate(self.parts):
            used = [any(p.grad is not None for p in same) for same in zip(*part, strict=True)]
            g = [[torch.zeros_like(p) if p.grad is None else p.grad for p in own] for own in part]
            new, self.states[i] = loop.algorithm.on_gradient(
                rows(g), self.states[i], self.world, now
            )
            if not loop.exchanges_gradients(now.t):
                continue
            put(new, g)
            for own, grads in zip(part, g, strict=True):
                for p, grad, yes in zip(own, grads, used, strict=True):
                    p.grad = grad.clone() if yes or not loop.averages_gradients else None

    def clip(self) -> None:
        for model in self.models if self.loop.clip else ():
            nn.utils.clip_grad_norm_(model.parameters(), self.loop.clip)

    @torch.no_grad()
    def average_statistics(self) -> None:
        for same in zip(*(statistics(m) for m in self.models), strict=True):
            mean = torch.stack(same).mean(0)
            for buffer in same:
                buffer.copy_(mean)

    @torch.no_grad()
    def mean(self) -> torch.Tensor:
        """The model to evaluate, with the mean of the statistics."""
        shown = copy.deepcopy(self)
        for part, state in zip(shown.parts, shown.states, strict=True):
            x = shown.loop.algorithm.readout(rows(part), state, shown.world)
            put(x.expand(len(part), -1), part)
        shown.average_statistics()
        return everything(shown.models[0])

    def note(self) -> list[torch.Tensor]:
        return [everything(model) for model in self.models]


def rows(part: Sequence[Sequence[torch.Tensor]]) -> Rows:
    """[K, P] of the tensors of every worker."""
    return torch.stack([torch.cat([x.detach().flatten() for x in own]) for own in part])


def put(x: Rows, part: Sequence[Sequence[torch.Tensor]]) -> None:
    for row, own in zip(x, part, strict=True):
        for tensor, values in zip(own, row.split([t.numel() for t in own]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def without_attach(loop: Loop) -> list[Noted]:
    """What `with_attach` should give, in the same order."""
    all_of, place, lr = Workers(loop), RoundPosition(), 0.0
    noted: list[list[torch.Tensor]] = []
    for t in range(loop.steps):
        if place.due:
            place, lr = place.next_round(loop.begins[t]), loop.rate(t)
        peeked = _step(all_of, place, t, lr)
        noted += [[mean] * loop.K for mean in peeked]
        place.t += 1
        told_last = not loop.cut and place.t == loop.steps
        if place.due:
            _end_round(all_of, place.at_step(t, lr, lr, told_last))
        else:
            all_of.exchange(loop.algorithm.on_step, place.at_step(t, lr, lr, False))
        held = all_of.note()
        noted.append([all_of.mean()] * loop.K if told_last else held)
        if t in loop.shown:
            noted.append([all_of.mean()] * loop.K)
    if not place.due:
        place.end = place.t
        _end_round(all_of, place.at_step(place.t - 1, lr, lr, True))
    noted.append([all_of.mean()] * loop.K)
    return [list(of_rank) for of_rank in zip(*noted, strict=True)]


def _step(all_of: Workers, place: RoundPosition, t: int, lr: float) -> list[torch.Tensor]:
    """Backward passes and a step of every worker; what `averaged` shows in between, if asked."""
    loop = all_of.loop
    for rank, (model, optimizer) in enumerate(zip(all_of.models, all_of.optimizers, strict=True)):
        loop.set_rate(optimizer, t)
        if not loop.zero_late:
            optimizer.zero_grad(set_to_none=loop.to_none)
        for loss in loop.losses(model, rank, t):
            loss.backward()
    peeked = [all_of.mean()] if t in loop.peeked else []
    now = place.at_step(t, lr, lr, not loop.cut and place.end == loop.steps)
    if loop.averages_gradients:  # as DistributedDataParallel: what is clipped is the average
        all_of.exchange_gradients(now)
        all_of.clip()
    else:
        all_of.clip()
        all_of.exchange_gradients(now)
    for rank, optimizer in enumerate(all_of.optimizers):
        if loop.takes(rank, t):
            optimizer.step()
        if loop.zero_late:
            optimizer.zero_grad(set_to_none=loop.to_none)
    return peeked


def _end_round(all_of: Workers, now: Now) -> None:
    all_of.exchange(all_of.loop.algorithm.on_sync, now)
    if all_of.loop.statistics == "average":
        all_of.average_statistics()
