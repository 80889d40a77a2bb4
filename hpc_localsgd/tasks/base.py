"""What a task is: loss, gradient and evaluation as functions of one flat parameter vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.tasks.shards import IID, Sharded, alpha_of, shards
from hpc_localsgd.types import ModelSize

if TYPE_CHECKING:
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import Losses, Rows, Shape, Vector

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # inputs and targets [R, B, ...]


@dataclass(frozen=True)
class TaskContext:
    """The part of a run a task has to know.

    Attributes:
        workers: K.
        local_workers: The workers living in this process, R numbers out of 0..K-1.
        batch: Samples per worker and step.
        seed: Of the initial parameters and of the order of the data.
        device: Where the parameters live.
        dtype: Of the parameters: torch.float32 or torch.float64.
        replacement: Draw the batches with replacement.
        remainder: See `Partition`.
        shards: iid, disjoint or dirichlet:ALPHA, see `tasks.shards`.
        execution: How losses and gradients are computed.
    """

    workers: int = 1
    local_workers: Sequence[int] = (0,)
    batch: int = 16
    seed: int = 0
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    replacement: bool = False
    remainder: Any = "carry"
    shards: str = IID
    execution: Execution = field(default_factory=Execution)

    def partition(self, samples: int, labels: np.ndarray | None = None) -> Partition:
        """Return which worker of this run uses which training samples.

        Args:
            samples: How many there are.
            labels: [N] by which they may be divided into shards; None where there are none.

        Raises:
            ConfigurationError: They are to be divided, and cannot be.
        """
        how = self.workers, self.batch, self.seed, self.replacement, self.remainder
        if alpha_of(self.shards) is None and self.shards == IID:
            return Partition(samples, *how)
        if labels is None:
            raise ConfigurationError(
                f"--partition {self.shards}: this task has no labelled samples to divide: "
                "leave it out"
            )
        own = shards(self.shards, labels, self.workers, self.batch, self.seed)
        return Sharded(samples, *how, own)


class TaskSpec(ABC):
    """The hyper-parameters of a task, a frozen dataclass; `build` makes the task itself.

    Attributes:
        target: Test accuracy to which time-to-target is measured by default; None if there is none.
    """

    target: ClassVar[float | None] = None

    @abstractmethod
    def build(self, context: TaskContext) -> Task:
        """Load the data, make the model, and allocate the flat storage of the R workers.

        Raises:
            ConfigurationError: The batch is larger than the data, or data is missing.
        """

    def undisturbed(self) -> TaskSpec:
        """Return the task without augmentation, label noise and mixup, for measuring curvature."""
        return self

    @property
    def fresh(self) -> bool:
        """Whether a sample differs every time it is due: by augmentation, noise or mixup."""
        return self != self.undisturbed()

    def smoke(self) -> TaskSpec:
        """Return the same model on small data of the same shapes that needs no files."""
        return self

    def published(self) -> TaskSpec | None:
        """Return the same on data without files, of the published size; None if it has none."""
        return None


class Task(ABC):
    """Model and data of the R workers of one process.

    Attributes:
        dim: P, the number of parameters.
        sizes: Lengths of the model's tensors in the flat vector, in order; they sum to P.
        decayed: The first `decayed` of the P parameters get weight decay, the rest (biases and
            parameters of norms) do not.
        shapes: Shapes of these tensors; empty where a task has none but the vector.
        matrices: For each tensor its shape [n, m] where it is a matrix of a hidden layer, for
            optimisers that look at those; None for embeddings, the read-out and all others.
        x: [R, P], the storage of the workers' parameters; stable for the life of the task.
        buffers: [R, Q], the floating-point buffers (BatchNorm statistics) of the workers.
        partition: Which worker uses which training samples at which step.
        splits: Number of samples of each split, e.g. {"train": 1437, "test": 360}.
    """

    dim: int
    sizes: tuple[int, ...]
    decayed: int
    shapes: tuple[Shape, ...] = ()
    matrices: tuple[tuple[int, int] | None, ...] = ()
    x: torch.Tensor
    buffers: torch.Tensor
    partition: Partition
    splits: Mapping[str, int]

    @property
    def model_size(self) -> ModelSize:
        """Return lengths and shapes of the tensors, and the bytes of a number."""
        return ModelSize(self.sizes, self.x.element_size(), self.shapes)

    @abstractmethod
    def init(self, seed: int) -> Vector:
        """Return initial parameters [P], the same on every worker."""

    @abstractmethod
    def batch(self, workers: Sequence[int], t: int) -> Batch:
        """Return the batches of some workers at step t: a function of (seed, worker, t) only."""

    def undisturbed(self, worker: int, t: int) -> Batch:
        """Return one worker's batch [B, ...] of step t as stored: what the loss is measured on.

        The samples of `batch` without augmentation, label noise and mixup. A task that disturbs
        what it trains on overrides this.
        """
        inputs, targets = self.batch([worker], t)
        return inputs[0], targets[0]

    @abstractmethod
    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return each worker's loss [R] on its own batch, and its gradient [R, P].

        The gradient is returned in storage that the next call overwrites.
        """

    def loss_and_mean_grad(self, x: Rows, batch: Batch, begin: Begin) -> tuple[Losses, Rows]:
        """Return the same, and the gradient averaged over all workers.

        Args:
            x: [1, P]: there is one worker in this process.
            batch: Its batch.
            begin: Begins the average of a contiguous part [1, m] of the gradient, in place. A task
                may call it while backward still runs, in one order on all ranks.
        """
        loss, g = self.loss_and_grad(x, batch)
        begin(g).wait()
        return loss, g

    @abstractmethod
    def loss(self, x: Vector, batch: Batch, buffers: Vector | None = None) -> torch.Tensor:
        """Return the mean loss [] of a model over one worker's batch [B, ...], differentiable in x.

        In evaluation mode, with the given buffers: what curvature is measured on.
        """

    def outputs(
        self, x: Vector, inputs: torch.Tensor, buffers: Vector | None = None
    ) -> torch.Tensor:
        """Return logits [B, C, ...] of inputs [B, ...], differentiable in x, in evaluation mode.

        For a task whose `loss` is their cross entropy, `criterion`; Gauss-Newton and Fisher
        matrices are made of them.

        Raises:
            ConfigurationError: The task has none.
        """
        raise ConfigurationError(
            f"{type(self).__name__} does not say what its loss is computed from (Task.outputs), so "
            "there is no Gauss-Newton or Fisher matrix: leave --ggn, --fisher and --noise out"
        )

    def criterion(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss [] of `outputs` [B, C, ...]: cross entropy, perhaps smoothed.

        Raises:
            NotImplementedError: The task has no outputs.
        """
        raise NotImplementedError(f"{type(self).__name__} has no outputs")

    @abstractmethod
    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Return sums over some rows of a split: float64 [3] of loss, right answers, samples.

        Right answers are NaN for a task without classes.
        """

    def probabilities(
        self, x: Vector, split: str, rows: range, buffers: Vector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities [n, C] in float64 and labels [n] of some rows of a split.

        n counts places where a sample has several labels.

        Raises:
            ConfigurationError: The task predicts no classes.
        """
        raise ConfigurationError(
            f"{type(self).__name__} predicts no classes: leave --uncertainty-every out"
        )

    @abstractmethod
    def statistics(self, x: Vector, batches: Sequence[Batch]) -> Vector:
        """Return buffers [Q] re-estimated at x, the cumulative mean over training batches."""

    def noisy_from(self, step: int) -> None:
        """Let the label noise of training begin at a step; before it, labels are as stored.

        Args:
            step: Above 0.

        Raises:
            ConfigurationError: The task has none.
        """
        raise ConfigurationError(
            f"--label-noise-from {step}: this task has no --task.label-noise to begin then"
        )

    def phase_begin(self, t: int) -> int:
        """Return the first step of the phase of step t, in which batches are disturbed alike."""
        del t
        return 0

    def named_tensors(self, x: Vector, buffers: Vector) -> dict[str, torch.Tensor]:
        """Return a model as its module's `state_dict`; where there is no module, the vector alone.

        Args:
            x: [P] parameters.
            buffers: [Q] floating-point buffers.
        """
        del buffers
        return {"x": x}

    def vector_of(self, named: Mapping[str, torch.Tensor]) -> Vector:
        """Return the parameters [P] of a model that `named_tensors` took apart.

        Args:
            named: Its tensors by name.

        Raises:
            ConfigurationError: They are not those of this task's model.
        """
        found = named.get("x")
        if found is None or found.shape != (self.dim,):
            raise ConfigurationError(f"the tensors are not those of a model of {self.dim} numbers")
        return found

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs beside x and buffers to be bitwise equal."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a saved state."""
        del state
