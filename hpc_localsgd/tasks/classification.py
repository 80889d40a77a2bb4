"""Classification: any module, any source of labelled samples.

A label may also be a sequence of labels [T], one for each place of the sample (the next tokens of
a text); logits are then [B, classes, T], and a sample's loss is the mean over its places.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Batch, Task, TaskContext
from hpc_localsgd.tasks.cross_entropy import CrossEntropy
from hpc_localsgd.tasks.draws import Draws
from hpc_localsgd.tasks.flat import Replicas
from hpc_localsgd.tasks.label_transforms import mixed, noisy
from hpc_localsgd.tasks.layout import bind, hidden_matrices
from hpc_localsgd.tasks.running_statistics import estimated
from hpc_localsgd.tasks.samples import Arrays, Samples

if TYPE_CHECKING:
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import Losses, Rows, Vector


class Classification(Task):
    """Cross entropy of a module's logits, for R workers."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        samples: Samples | Mapping[str, tuple[np.ndarray, np.ndarray]],
        context: TaskContext,
        vmapped: bool | None = None,
        label_smoothing: float = 0.0,
        label_noise: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        """Allocate the flat storage of the workers.

        Args:
            make: Makes a freshly initialised module from torch's global random numbers.
            samples: Where samples come from; or, for "train", "test", ...: inputs [N, ...] and
                integer labels [N] or [N, T].
            context: Workers, batch, seed, device and dtype of the run.
            vmapped: See `Replicas`.
            label_smoothing: Of the training loss (Szegedy et al. 2016). Evaluations are without.
            label_noise: Probability that a training label is replaced by one of the other classes,
                drawn again at every step (Blanc et al. 2020; Gu et al. 2023 take 0.1).
            mixup: Alpha of `label_transforms.mixed`; 0 for none.

        Raises:
            ConfigurationError: A number out of range, or an execution that is not possible.
        """
        context.execution.check(context.batch, context.dtype)
        _check_fractions(label_smoothing=label_smoothing, label_noise=label_noise)
        if mixup < 0:
            raise ConfigurationError(f"--task.mixup {mixup}: 0 for none, or a positive number")
        self._make, self._context = make, context
        self._noise, self._mixup, self._noisy_from = label_noise, mixup, 0
        self.samples = samples if isinstance(samples, Samples) else Arrays(samples, context)
        self.splits, self.partition = self.samples.splits, self.samples.partition
        self._criterion = CrossEntropy(label_smoothing)
        self._replicas = Replicas(
            self._module(context.seed),
            len(context.local_workers),
            self._criterion,
            context.device,
            context.dtype,
            vmapped,
            context.execution,
            Draws(context.seed, context.local_workers, context.device),
        )
        self.layout = self._replicas.layout
        self.dim, self.sizes = self._replicas.dim, self.layout.sizes
        self.shapes = tuple(map(tuple, self.layout.shapes))
        self.decayed = self.layout.decayed
        self.matrices = hidden_matrices(self._replicas.modules[0], self.layout)
        self.x, self.buffers = self._replicas.x, self._replicas.buffers
        self._drawn: tuple[int, Vector] | None = context.seed, self.x[0].clone()  # for `init`
        self._point = copy.deepcopy(self._replicas.modules[0])  # evaluated at any given vector

    def _module(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
            return self._make()

    def init(self, seed: int) -> Vector:
        """Return initial parameters [P], drawn on the CPU so that every device starts alike."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None and drawn[0] == seed:  # a large model is not drawn twice
            return drawn[1]
        return self.layout.flatten(self._module(seed)).to(self.x)

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        """Return inputs [R, B, ...] and labels [R, B] (mixed: [R, B, classes]) at step t."""
        inputs, labels = self.samples.training(workers, t)
        classes, seed = self.samples.classes, self._context.seed
        if self._noise and t >= self._noisy_from:
            labels = noisy(labels, classes, self._noise, seed, workers, t)
        if self._mixup:
            return mixed((inputs, labels), classes, self._mixup, seed, workers, t)
        return inputs, labels

    def noisy_from(self, step: int) -> None:
        """Let label noise begin at a step, see `Task.noisy_from`."""
        if not self._noise:
            super().noisy_from(step)
        self._noisy_from = step

    def phase_begin(self, t: int) -> int:
        """Return where the label noise of step t began; 0 before it begins."""
        return self._noisy_from if t >= self._noisy_from else 0

    def undisturbed(self, worker: int, t: int) -> Batch:
        """Return inputs [B, ...] and labels [B] as stored, without damaged samples."""
        parts = list(self.samples.clean("train", self.partition.indices(worker, t)))
        inputs, labels = zip(*parts, strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return losses [R] and gradients [R, P]; no copy when x is the task's own storage."""
        if x.data_ptr() != self.x.data_ptr():
            self.x.copy_(x)
        self.samples.trained()
        return self._replicas.loss_and_grad(*batch)

    def loss_and_mean_grad(self, x: Rows, batch: Batch, begin: Begin) -> tuple[Losses, Rows]:
        """Return losses [R] and the average gradient, begun part by part while backward runs."""
        if x.data_ptr() != self.x.data_ptr():
            self.x.copy_(x)
        self.samples.trained()
        return self._replicas.loss_and_mean_grad(*batch, begin)

    def loss(self, x: Vector, batch: Batch, buffers: Vector | None = None) -> torch.Tensor:
        """Return the mean training loss [] of inputs [B, ...] in evaluation mode, differentiable.

        In the dtype of x throughout, whatever the run's precision: curvature wants it exact.
        """
        inputs, labels = batch
        return self.criterion(self.outputs(x, inputs, buffers), labels)

    def criterion(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean training loss [] of logits [B, C, ...]."""
        return self._criterion(outputs, targets)

    def outputs(
        self, x: Vector, inputs: torch.Tensor, buffers: Vector | None = None
    ) -> torch.Tensor:
        """Return logits [B, C, ...] of inputs [B, ...], in evaluation mode, differentiable in x."""
        state = self.layout.views(x)
        state |= self.layout.buffer_views(self.buffers[0] if buffers is None else buffers)
        with twice_differentiable(self._point):
            called: torch.Tensor = functional_call(self._point.eval(), state, inputs)
        return called

    @torch.no_grad()
    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Return sums over rows of a split: float64 [3] of loss, right answers, samples."""
        module = self._at(x, buffers).eval()
        sums = torch.zeros(3, dtype=torch.float64, device=x.device)
        for inputs, labels in self.samples.clean(split, rows):
            if len(labels):
                places = labels[0].numel()  # labels of a sample
                logits = self._logits(module, inputs)
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                sums[0] += loss.double() / places
                sums[1] += (logits.argmax(1) == labels).sum().double() / places
                sums[2] += len(labels)
        return sums

    @torch.no_grad()
    def probabilities(
        self, x: Vector, split: str, rows: range, buffers: Vector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities [n, C] and labels [n] of rows of a split."""
        module = self._at(x, buffers).eval()
        parts, found = [], []
        for inputs, labels in self.samples.clean(split, rows):
            logits = self._logits(module, inputs).double().movedim(1, -1)
            parts.append(logits.flatten(0, -2).softmax(1))
            found.append(labels.flatten())
        return torch.cat(parts), torch.cat(found)

    @torch.no_grad()
    def statistics(self, x: Vector, batches: Sequence[Batch]) -> Vector:
        """Return BatchNorm statistics [Q] at x: the cumulative mean over batches [B, ...]."""
        buffers = self.buffers[0].clone()
        if not buffers.numel() or not batches:
            return buffers
        module = self._at(x, buffers).train()
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        with estimated(norms, x.device):  # dropout draws, as in training
            for inputs, _ in batches:
                self._logits(module, inputs)
        return buffers

    def _logits(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        execution = self._context.execution
        with execution.autocast(inputs.device):
            logits: torch.Tensor = module(execution.arranged(inputs))
        return logits.to(self.x.dtype)

    def named_tensors(self, x: Vector, buffers: Vector) -> dict[str, torch.Tensor]:
        """Return the module's own `state_dict` at parameters [P] and buffers [Q]."""
        return dict(self._at(x, buffers).state_dict())

    def vector_of(self, named: Mapping[str, torch.Tensor]) -> Vector:
        """Return parameters [P] from a `state_dict`.

        Raises:
            ConfigurationError: It is of another model.
        """
        wanted = zip(self.layout.names, self.layout.shapes, strict=True)
        for name, shape in wanted:
            there = tuple(named[name].shape) if name in named else "nothing"
            if there != tuple(shape):
                raise ConfigurationError(
                    f"the model of the task has {name} {tuple(shape)}, and the file {there}"
                )
        return torch.cat([named[name].reshape(-1) for name in self.layout.names])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state, see `Task.state_dict`."""
        return self._replicas.state_dict() | {"skipped": torch.tensor(self.samples.skipped)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the state, see `Task.load_state_dict`."""
        self._replicas.load_state_dict(state)
        self.samples.skipped[:] = state["skipped"].tolist()

    @property
    def skipped(self) -> list[int]:
        """Damaged samples, see `Samples.skipped`."""
        return self.samples.skipped

    def _at(self, x: Vector, buffers: Vector) -> nn.Module:
        """Return the evaluation module, its parameters and buffers views of the given vectors."""
        return bind(self._point, self.layout, x, buffers)


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """Run a forward pass whose gradient can be differentiated: fused attention and LSTMs cannot."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def _check_fractions(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < 1:
            option = "--task." + name.replace("_", "-")
            raise ConfigurationError(f"{option} {value}: a fraction from 0 to less than 1")
