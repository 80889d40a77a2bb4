"""The same problem trained by the package's own loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.tasks.base import Batch, Task
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated
from restated.local import Sgd
from restated.problem import DECAYED, SHAPES, SIZES, Case, P, Problem


class Restated(Task):
    """The problem as a task, of all workers or some. The step it is at is what its batch says."""

    def __init__(self, problem: Problem, workers: Sequence[int] | None = None) -> None:
        self.problem = problem
        workers = range(problem.K) if workers is None else workers
        self.dim, self.sizes, self.decayed, self.shapes = P, SIZES, DECAYED, SHAPES
        self.x = torch.from_numpy(problem.start[list(workers)])
        self.buffers = torch.empty(len(workers), 0, dtype=torch.float64)
        self.partition, self.splits = Partition(problem.K, problem.K, 1), {"train": problem.K}

    def init(self, seed: int) -> torch.Tensor:
        return self.x[0].clone()

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        return torch.tensor(t), torch.tensor(list(workers))

    def loss_and_grad(self, x: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        of = zip(batch[1].tolist(), x.numpy(), strict=True)
        g = [self.problem.gradient(k, row, int(batch[0])) for k, row in of]
        return torch.zeros(len(x)), torch.from_numpy(np.stack(g))

    def loss(self, *given: Any) -> torch.Tensor:
        raise NotImplementedError

    def evaluate(self, *given: Any) -> torch.Tensor:
        raise NotImplementedError

    def statistics(self, x: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        return self.buffers[0]


class Noting:
    """Stands in for the recorder."""

    def __init__(self, task: Task) -> None:
        self.task, self.noted, self.ends = task, list[np.ndarray](), list[int]()

    def after_step(self, loss: torch.Tensor) -> None:
        self.noted.append(self.task.x.numpy().copy())

    def before_sync(self, p: Position, now: Any) -> None:
        self.ends.append(p.t)

    def after_sync(self, p: Position, now: Any) -> None:
        pass

    def measure(self, p: Position) -> None:
        self.noted.append(self.task.x.numpy().copy())
        assert torch.equal(p.x, self.task.x)


class Listed(Schedule):
    """The rounds of a problem."""

    def __init__(self, problem: Problem) -> None:
        self.lengths = {begin: end - begin for _, begin, end in problem.rounds()}

    def __call__(self, t: int, lr: float) -> int:
        return self.lengths[t]


def run_of(
    case: Case, problem: Problem, make: type[Restated] = Restated, world: World | None = None
) -> Run:
    """The objects of a run on the problem, in a simulated world if no other is given."""
    world = world or Simulated(problem.K)
    task = make(problem) if world.R == problem.K else make(problem, world.local_workers)
    torch_class = torch.optim.SGD if problem.local is Sgd else torch.optim.AdamW
    make = partial(torch_class, lr=0.0, **problem.local.GIVEN)  # type: ignore[attr-defined]
    rule = case.ours.get("gradient")
    return Run(
        task=rule.wrap(task, world, seed=9) if rule else task,
        algorithm=case.made,
        schedule=case.ours.get("schedule") or Listed(problem),
        rate=problem.rate,  # type: ignore[arg-type]
        optimizer=LocalOptimizer(
            make, task, case.ours.get("at_sync", "keep"), case.ours.get("moments_every")
        ),
        batchnorm=BatchNorm(),
        world=world,
        steps=problem.steps,
    )


def trained(case: Case, problem: Problem, world: World | None = None) -> Noting:
    """What was noted at every step of a run from its beginning to its end."""
    run = run_of(case, problem, world=world)
    noting = Noting(run.task)
    train(run, run.beginning(), noting)  # type: ignore[arg-type]
    return noting
