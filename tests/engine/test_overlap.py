"""A user's own algorithm is overlapped with backward by both doors, with the same numbers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hpc_localsgd
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.loop import Run, train
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import phases
from hpc_localsgd.schedules.rates import constant
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification

sys.path.append(str(Path(__file__).parents[1] / "attach"))  # its ranks, which are threads

from rank_threads import ThreadWorld, on_ranks  # noqa: E402

STEPS, WIDE = 6, 8
SCHEDULE = phases(at=(2, 5), every=(1, 3, 1))  # rounds of one step and of three


class Damped:
    """Half of an average that is under way."""

    def __init__(self, under_way: Any) -> None:
        self.under_way = under_way

    def wait(self) -> torch.Tensor:
        return self.under_way.wait().mul_(0.5)


@dataclass(frozen=True)
class HalfTheMean(Algorithm):
    """Every worker takes half the average gradient, at the even steps of any round.

    Attributes:
        begun: The steps at which an average of a part was begun.
        whole: The steps at which the whole gradient was asked for.
    """

    begun: list[int]
    whole: list[int]

    def in_backward(self, state: Any, world: Any, now: Any) -> Any:
        def begin(part: torch.Tensor) -> Damped:
            self.begun.append(now.t)
            return Damped(world.begin_mean(part, keep=False))

        return begin if now.t % 2 == 0 else None

    def on_gradient(self, g: Any, state: Any, world: Any, now: Any) -> Any:
        assert now.t % 2, "this step's average is begun during backward"
        self.whole.append(now.t)
        return g, state

    def on_sync(self, x: Any, state: Any, world: Any, now: Any) -> Any:
        return world.mean(x), state

    def payload(self, model: Any, K: int, now: Any) -> int:
        return int(model.nbytes)


def model() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(6, WIDE), nn.Tanh(), nn.Linear(WIDE, WIDE), nn.Tanh()]
    made = nn.Sequential(*layers, nn.Linear(WIDE, 3))
    numbers = torch.Generator().manual_seed(3)  # the ranks are threads, which share torch's own
    for p in made.parameters():
        nn.init.normal_(p, std=0.3, generator=numbers)
    return made


def task_of(world: ThreadWorld) -> Classification:
    numbers = torch.Generator().manual_seed(1)
    data = torch.randn(40, 6, generator=numbers).numpy(), torch.arange(40).numpy() % 3
    return Classification(model, {"train": data}, TaskContext(2, world.local_workers, batch=5))


def watched(first: nn.Parameter, algorithm: HalfTheMean, seen: list[int]) -> None:
    """Note at the first layer's gradient, the last of backward, what has been begun by then."""
    first.register_hook(lambda g: seen.append(len(algorithm.begun)))


def by_the_trainer(world: ThreadWorld) -> dict[str, Any]:
    task, seen = task_of(world), list[int]()
    algorithm = HalfTheMean([], [])
    watched(next(task._replicas.modules[0].parameters()), algorithm, seen)
    make = lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9)  # noqa: E731
    run = Run(
        task, algorithm, SCHEDULE, constant(0.1), LocalOptimizer(make, task), BatchNorm(), world,
        STEPS,
    )  # fmt: skip
    train(run, run.beginning(), Recorder(run))
    named = dict(task._replicas.modules[0].named_parameters())
    return {"x": named, "seen": seen, "begun": algorithm.begun, "whole": algorithm.whole}


def by_attach(world: ThreadWorld) -> dict[str, Any]:
    task, own, seen = task_of(world), task_of(world)._replicas.modules[0], list[int]()
    algorithm = HalfTheMean([], [])
    watched(next(own.parameters()), algorithm, seen)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    sync = hpc_localsgd.attach(
        own, optimizer, algorithm=algorithm, schedule=SCHEDULE, world=world, steps=STEPS,
        bucket_bytes=4 * WIDE,
    )  # fmt: skip
    for t in range(STEPS):
        inputs, labels = task.batch(world.local_workers, t)
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(inputs[0]), labels[0]).backward()
        optimizer.step()
        sync.step()
    named = dict(own.named_parameters())
    return {"x": named, "seen": seen, "begun": algorithm.begun, "whole": algorithm.whole}


def test_a_users_algorithm_is_overlapped_in_both_doors_with_equal_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "hpc_localsgd.tasks.gradient_parts.GradientParts.__init__.__defaults__", (4 * WIDE,)
    )
    trainers, attached = on_ranks(2, by_the_trainer), on_ranks(2, by_attach)
    for door in (*trainers, *attached):
        assert set(door["begun"]) == {0, 2, 4} and door["whole"] == [1, 3, 5]
        even = door["seen"][::2]
        before = [door["begun"].index(t) for t in (0, 2, 4)]
        assert all(now > then for now, then in zip(even, before, strict=True)), "not in backward"
    for theirs, ours in zip(trainers, attached, strict=True):
        for name, p in theirs["x"].items():
            torch.testing.assert_close(ours["x"][name], p, rtol=1e-6, atol=1e-7)  # to rounding
