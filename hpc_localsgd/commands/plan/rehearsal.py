"""A rehearsal: the algorithm's own exchanges, acted out on a small model by simulated workers.

So a plan predicts what the modelled clock of a simulated run would show, for any algorithm, and
how a method communicates need not be written down twice. The model is small but its bytes are
expensive: the network is slower by as much as the model is smaller.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands.plan.matrices_in_small import in_small
from hpc_localsgd.commands.plan.plan_report import Memory
from hpc_localsgd.commands.plan.planned_run import PlannedRun
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.topology.base import vectors_sent
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.pending import Pending
from hpc_localsgd.worlds.simulated import Simulated

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

LARGEST = 2**14  # parameters of the small model: exact up to there, rounded tensors above
MIXES = 16  # whose costs are kept, as many as topologies keep matrices
ALL_WORKERS = 2**20  # parameters of all small models together, however many workers


class Rehearsal:
    """Predicted seconds of the exchanges of a round. Called for rounds in their order.

    Attributes:
        optimizer: The torch optimiser of the small models.
        optimizer_numbers: Numbers it remembers per parameter: 1 for momentum, 2 for Adam.
    """

    def __init__(self, planned: PlannedRun, network: Network, step_s: float = 0.0) -> None:
        """Prepare the small models.

        Args:
            planned: The run.
            network: Between its workers.
            step_s: Seconds of a local step, behind which an average under way is hidden; 0 to bill
                such an average as one that is waited for.
        """
        config, K = planned.config, planned.workers
        model = _shrunk(planned.model, min(LARGEST, max(256, ALL_WORKERS // K)))
        self._planned, self._scale = planned, planned.model.P / model.P
        slow = network.dearer(self._scale)
        dtype = getattr(torch, config.dtype)
        row = torch.linspace(-1, 1, model.P, dtype=dtype)
        # What the optimiser and BatchNorm want of a task:
        self.x: Rows = row.repeat(K, 1)
        self.buffers = torch.zeros(K, round(planned.buffers / self._scale), dtype=dtype)
        self.dim = model.P
        self.decayed = -(-model.P // 2)  # wherever: with and without decay are sent apart
        self.sizes = (self.decayed, model.P - self.decayed)
        self.matrices = ((self.decayed, 1), None)
        self._g = self.x.clone()
        self._model, self._world = model, _Rehearsed(K, "cpu", slow, step_s)
        whole = model == planned.model
        self._algorithm = config.algorithm if whole else in_small(config.algorithm, planned.model)
        self._state = self._algorithm.init(self.x, self._world, model)
        self._batchnorm = BatchNorm(config.batchnorm, config.batchnorm_batches)
        as_task: Any = self
        self._optimizer = LocalOptimizer(
            planned.optimizer, as_task, config.momentum_at_sync, config.moments_every
        )
        self._optimizer.step(torch.zeros_like(self._g), lr=0.0)
        self.optimizer = self._optimizer.torch
        self.optimizer_numbers = _numbers(self.optimizer.state, K) / model.P
        self._remembered = _numbers(self._state, K)
        self._activations = planned.activations
        self._world.ledger.take()

    def __call__(self, now: Now) -> float:
        """Return the seconds a worker spends in the exchanges of the round that `now` ends."""
        algorithm, world, x, g = self._algorithm, self._world, self.x, self._g
        for h in range(now.H):
            world.steps += 1
            if not _steps_matter(algorithm):
                continue
            step = replace(now, t=now.t - now.H + 1 + h, h=h)
            _, self._state = algorithm.on_gradient(g, self._state, world, step)
            if h < now.H - 1:
                _, self._state = algorithm.on_step(x, self._state, world, step)
        _, self._state = algorithm.on_sync(x, self._state, world, now)
        self._optimizer.on_sync(world, now)
        as_task: Any = self
        self._batchnorm.on_sync(as_task, world)
        self._remembered = max(self._remembered, _numbers(self._state, world.K))
        return world.ledger.take().close().transfer_s

    def payload(self, now: Now) -> Any:
        """Return the bytes of the algorithm, and of optimiser and BatchNorm where averaged."""
        planned, config, K = self._planned, self._planned.config, self._planned.workers
        model = planned.model
        if K == 1:
            return 0.0
        sent: Any = config.algorithm.payload(model, K, now)
        sent = sent + now.H * config.gradient.payload(model, K)
        sent = sent + model.nbytes * self._optimizer.averages(now)
        if config.batchnorm == "average":
            sent = sent + planned.buffers * model.itemsize
        return sent

    @property
    def hides(self) -> bool:
        """Whether an average was begun that steps may hide."""
        return self._world.begun > 0

    def memory(self) -> Memory:
        """Return the bytes a worker keeps, from the rounds seen so far."""
        copy = self._model.nbytes * self._scale
        remembered = self._remembered / self._model.P
        return Memory(
            parameters=copy,
            gradients=copy,
            optimiser=copy * self.optimizer_numbers,
            algorithm=copy * remembered,
            activations=self._activations,
        )


class _Rehearsed(Simulated):
    """World without computation, whose time passes by the step.

    Attributes:
        step_s: Seconds of a step; 0 where an average under way is billed as one waited for.
        steps: Taken so far.
        begun: Averages that steps may hide.
    """

    def __init__(self, workers: int, device: str, network: Network, step_s: float) -> None:
        super().__init__(workers, device, network)
        self.step_s, self.steps, self.begun = step_s, 0, 0
        self._mixes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, float]] = {}

    def mix(self, x: Rows, W: np.ndarray) -> Rows:
        """Bill a mix and leave the rows as they are: its cost depends on W alone, and is kept."""
        nbytes = x.shape[1] * x.element_size()
        key = id(W), nbytes
        if key not in self._mixes:
            if len(self._mixes) >= MIXES:
                self._mixes.clear()
            assert self.network is not None
            # W is kept too, or another one might get its id.
            self._mixes[key] = W, vectors_sent(W), self.network.mix_s(W, nbytes)
        _, vectors, seconds = self._mixes[key]
        self._bill(vectors * nbytes, 0.0, seconds)
        return x

    def begin_mean(self, x: Rows, keep: bool = True) -> Pending:
        """Return the average, computed at once."""
        del keep
        self.begun += 1
        row = self.mean(x.clone())[0]
        if not self.step_s:
            return Pending(row, lambda: None, self.ledger, 0.0)
        took_s = self._allreduce_s(row.numel() * row.element_size(), self.K)
        self.ledger.add_modelled(-took_s)  # until it is waited for
        return _UnderWay(row, took_s, self)


class _UnderWay(Pending):
    """Average that is hidden behind the steps taken since it was begun."""

    def __init__(self, row: Vector, took_s: float, world: _Rehearsed) -> None:
        super().__init__(row, lambda: None, world.ledger, took_s)
        self._world, self._since = world, world.steps

    def wait(self) -> Vector:
        """Return the average, at the price of what is left of it."""
        hidden_s = (self._world.steps - self._since) * self._world.step_s
        if not self._done:
            self._ledger.add_modelled(max(0.0, self._modelled_s - hidden_s))
        self._done = True
        return self._row


def _shrunk(model: ModelSize, most: int) -> ModelSize:
    """Return the model with its tensors shortened in proportion, to about `most` parameters."""
    scale = max(1.0, model.P / most)
    if scale == 1.0:
        return model
    sizes = tuple(max(1, round(size / scale)) for size in model.sizes)
    return replace(model, sizes=sizes, shapes=tuple((n,) for n in sizes if model.shapes))


def _steps_matter(algorithm: Algorithm) -> bool:
    """Return whether the algorithm does anything between exchanges."""
    kind = type(algorithm)
    return kind.on_gradient is not Algorithm.on_gradient or kind.on_step is not Algorithm.on_step


def _numbers(state: Any, K: int) -> float:
    """Count one worker's numbers in the tensors of a state, without counters [].

    Rows [K, ...] are shared out among the workers, vectors are not.
    """
    if isinstance(state, torch.Tensor):
        if state.ndim == 0:
            return 0.0
        return state.numel() / K if state.ndim == 2 and len(state) == K else state.numel()
    if isinstance(state, dict):
        return sum(_numbers(value, K) for value in state.values())
    if isinstance(state, list | tuple):
        # The lengths of a model's hundreds of tensors are looked through at every round.
        return sum(_numbers(value, K) for value in state if type(value) is not int)
    return 0.0
