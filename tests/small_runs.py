"""Small runs inside the test's own process, and a record that is kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer, MakeOptimizer
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.probes import Probe, Spread
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import Schedule, every
from hpc_localsgd.schedules.rates import Rate, constant
from hpc_localsgd.tasks.base import Batch, Task, TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated


def sgd(**options: Any) -> MakeOptimizer:
    """Makes torch.optim.SGD; its learning rate is the run's."""
    return lambda parameters: torch.optim.SGD(parameters, lr=0.0, **options)


def adam(**options: Any) -> MakeOptimizer:
    """Makes torch.optim.Adam; its learning rate is the run's."""
    return lambda parameters: torch.optim.Adam(parameters, lr=0.0, **options)


def small_run(
    *,
    spec: TaskSpec | None = None,
    K: int = 4,
    H: Schedule | int = 1,
    steps: int = 20,
    lr: Rate | float = 0.1,
    optimizer: MakeOptimizer | None = None,
    algorithm: Algorithm | None = None,
    at_sync: Any = "keep",
    moments_every: Any = None,
    batchnorm: BatchNorm | None = None,
    world: World | None = None,
    dtype: torch.dtype = torch.float64,
    batch: int = 8,
    seed: int = 0,
    execution: Execution | None = None,
) -> Run:
    """The objects of a run on the digits (or another task) in a simulated world."""
    world = world or Simulated(K)
    context = TaskContext(
        workers=world.K,
        local_workers=world.local_workers,
        batch=batch,
        seed=seed,
        device=world.device,
        dtype=dtype,
        execution=execution or Execution(),
    )
    task = (spec or digits(hidden=16)).build(context)
    task.x[:] = task.init(seed)
    return Run(
        task=task,
        algorithm=algorithm or LocalSGD(),
        schedule=every(H) if isinstance(H, int) else H,
        rate=constant(lr) if isinstance(lr, float) else lr,
        optimizer=LocalOptimizer(optimizer or sgd(), task, at_sync, moments_every),
        batchnorm=batchnorm or BatchNorm(),
        world=world,
        steps=steps,
    )


@dataclass
class Memory:
    """Stands in for the writer of a trajectory."""

    rounds: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    snapshots: list[tuple[int, Any, Any]] = field(default_factory=list)

    def round(self, **row: Any) -> None:
        self.rounds.append(row)

    def series(self, name: str, step: int, value: Any, **said: Any) -> None:
        self.values.setdefault(name, []).append((step, np.array(value)))

    def snapshot(self, step: int, mean: Any, workers: Any = None) -> None:
        self.snapshots.append((step, np.array(mean), None if workers is None else workers.copy()))

    def steps(self, name: str) -> list[int]:
        return [step for step, _ in self.values[name]]


def go(
    run: Run,
    probes: Sequence[Probe] = (),
    spread: int = 0,
    memory: Memory | None = None,
    show: Any = lambda t, values: None,
) -> tuple[Position, Memory]:
    """Train from the beginning to the end; the final position and what was recorded."""
    memory = memory or Memory()
    p = run.beginning()
    record = Recorder(run, probes, Spread(spread), memory, show)  # type: ignore[arg-type]
    record.start(p)
    return train(run, p, record), memory


@dataclass(frozen=True)
class Dropping(TaskSpec):
    """Noise to be learnt by heart, through dropout."""

    def build(self, context: TaskContext) -> Classification:
        stream = np.random.default_rng(0)
        split = stream.standard_normal((64, 6)), stream.integers(3, size=64)
        return Classification(self.module, {"train": split, "test": split}, context)

    @staticmethod
    def module() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))


@dataclass(frozen=True)
class quadratic(TaskSpec):
    """Worker k minimises h_k (w - c_k)^2 / 2 in each of `dim` coordinates, with gradient noise.

    Attributes:
        h: Curvature of every worker; repeated when there are more workers.
        c: Minimum of every worker.
        noise: Standard deviation of the gradient's noise, in each coordinate.
        start: All workers start here.
        dim: P.
    """

    h: tuple[float, ...] = (1.0,)
    c: tuple[float, ...] = (0.0,)
    noise: float = 0.0
    start: float = 1.0
    dim: int = 1

    def build(self, context: TaskContext) -> Quadratic:
        return Quadratic(self, context)


class Quadratic(Task):
    def __init__(self, spec: quadratic, context: TaskContext) -> None:
        self.spec, self.context = spec, context
        self.dim, self.sizes, self.decayed = spec.dim, (spec.dim,), 0
        self.x = torch.empty(len(context.local_workers), spec.dim, dtype=context.dtype)
        self.buffers = torch.empty(len(context.local_workers), 0, dtype=context.dtype)
        self.partition = Partition(context.workers, context.workers, 1)
        self.splits = {"train": context.workers}
        self.h, self.c = (
            torch.tensor(
                [values[k % len(values)] for k in context.local_workers], dtype=context.dtype
            )[:, None]
            for values in (spec.h, spec.c)
        )

    def init(self, seed: int) -> torch.Tensor:
        return torch.full((self.dim,), self.spec.start, dtype=self.context.dtype)

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        streams = [np.random.default_rng([self.context.seed, k, t]) for k in workers]
        noise = np.stack([stream.standard_normal(self.dim) for stream in streams])
        return torch.from_numpy(noise) * self.spec.noise, torch.tensor(workers)

    def loss_and_grad(self, x: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        away = x - self.c
        return (0.5 * self.h * away**2).sum(1), self.h * away + batch[0]

    def loss(
        self, x: torch.Tensor, batch: Batch, buffers: torch.Tensor | None = None
    ) -> torch.Tensor:
        raise NotImplementedError

    def evaluate(
        self, x: torch.Tensor, split: str, rows: range, buffers: torch.Tensor
    ) -> torch.Tensor:
        raise NotImplementedError

    def statistics(self, x: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        return self.buffers[0]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes, to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
