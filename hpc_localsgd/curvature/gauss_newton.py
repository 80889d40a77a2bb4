"""Matrices made of the outputs' Jacobian: Gauss-Newton, the Fishers, the covariance of the noise.

With the model's logits f(x), J = df/dx, and the cross entropy l, p = softmax f, r = dl/df = p - y:

    G v = 1/N sum_i J_i^T (diag p_i - p_i p_i^T) J_i v     generalised Gauss-Newton; for cross
                                                           entropy the true Fisher as well
    F v = 1/N sum_i g_i (g_i . v),  g_i = J_i^T r_i        empirical Fisher
    Sigma = F - g g^T,              g = mean g_i           covariance of the gradient of one sample

Sources: Schraudolph, Neural Computation 14, 2002; Martens, JMLR 21, 2020; Kunstner, Hennig &
Balles, NeurIPS 2019, on how G and F differ.

J^T w is a backward pass. J v is one too: J^T u is linear in u, and its graph pulled back along v
is J v. Both graphs are built once for many products, as that of the Hessian is.

curvlinops 3.0.1 has the same matrices, and our tests take it as their reference. It is no
dependency of the package because it runs the network anew for every product: one vector took it
4.5 times as long on an MLP of 9610 parameters and twice as long on a convolutional net of 38 330
(512 images, one core; ten vectors at once 1.5 to 1.8 times on the MLP), its Hessian cannot go
through GroupNorm, which has no forward mode in torch 2.13, and it brings eight packages with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch.func import grad, vmap

from hpc_localsgd.curvature.pullback import PullBack
from hpc_localsgd.tasks.base import Batch, Task
from hpc_localsgd.tasks.without_compiler import gradients_without_it

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

Middle: TypeAlias = Literal["ggn", "fisher"]
HELD_NUMBERS = 1 << 24  # of per-sample gradients held at a time: 64 MiB in float32


class Outputs:
    """The outputs of one chunk at a point, their graph, and products with their Jacobian."""

    def __init__(self, task: Task, x: Vector, batch: Batch, buffers: Vector) -> None:
        """Build the graphs of f and of J^T u.

        Args:
            task: With `outputs`.
            x: [P], requiring a gradient.
            batch: Inputs [b, ...] and targets [b, ...].
            buffers: [Q].

        Raises:
            ConfigurationError: The task has no outputs.
        """
        inputs, self.targets = batch
        self._x, self._f = x, task.outputs(x, inputs, buffers)
        self.logits = self._f.detach()
        self._u = torch.zeros_like(self.logits, requires_grad=True)
        self._residuals = _residuals(task, self.logits, self.targets)
        (self._pulled,) = torch.autograd.grad(self._f, x, self._u, create_graph=True)

    def forward(self, vectors: Rows, pull: PullBack, keep: bool) -> torch.Tensor:
        """Return J v for rows [m, P]: [m, b, C, ...]."""
        return pull(self._pulled, self._u, vectors, keep)

    def back(self, rows: torch.Tensor, pull: PullBack, keep: bool) -> Rows:
        """Return J^T w for w [m, b, C, ...]: [m, P]."""
        return pull(self._f, self._x, rows, keep)

    def between(self, moved: torch.Tensor, middle: Middle) -> torch.Tensor:
        """Apply the matrix between J^T and J to moved [m, b, C, ...], summed over samples."""
        if middle == "ggn":
            p = self.logits.softmax(1)
            places = self.targets[0].numel()  # labels of a sample: one, or the tokens of a text
            return p * (moved - (p * moved).sum(2, keepdim=True)) / places
        r = self._residuals
        along = (r * moved).flatten(2).sum(2)  # g_i . v, [m, b]
        return r * along.view(*along.shape, *[1] * (r.dim() - 1))


def _residuals(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the gradient r_i of each sample's loss by its logits, [b, C, ...]."""
    at = logits.clone().requires_grad_()
    (r,) = torch.autograd.grad(task.criterion(at, targets), at)
    return r * len(logits)


class OuterProducts:
    """This rank's part of G or F at a point, times vectors; the parts of ranks add up."""

    def __init__(
        self,
        task: Task,
        chunks: Sequence[Batch],
        total: int,
        x: Vector,
        buffers: Vector,
        pull: PullBack,
        keep: bool,
    ) -> None:
        """Take G or F at a point.

        Args:
            task: With `outputs`.
            chunks: This rank's chunks.
            total: N, samples of all ranks.
            x: [P], requiring a gradient.
            buffers: [Q].
            pull: Takes vectors through a graph.
            keep: Keep the graphs of all chunks between products.
        """
        self.task, self.chunks, self.total, self.keep = task, list(chunks), total, keep
        self._x, self._buffers, self._pull = x, buffers, pull
        self._kept: list[Outputs] = []

    def products(self, vectors: Rows, middle: Middle) -> Rows:
        """Return G or F times vectors [m, P]: [m, P].

        Raises:
            ConfigurationError: The task has no outputs.
        """
        found = torch.zeros_like(vectors)
        for i in range(len(self.chunks)):
            part = self._outputs(i)
            moved = part.forward(vectors, self._pull, self.keep)
            found += part.back(part.between(moved, middle), self._pull, self.keep)
        return found / self.total

    def _outputs(self, i: int) -> Outputs:
        if len(self._kept) > i:
            return self._kept[i]
        made = Outputs(self.task, self._x, self.chunks[i], self._buffers)
        if self.keep:
            self._kept.append(made)
        return made


def squared_gradients(task: Task, chunks: Sequence[Batch], x: Vector, buffers: Vector) -> Vector:
    """Return the sums over these samples of |g_i|^2 and |g_i|^4, and their number: float64 [3].

    Args:
        task: Its `loss` of one sample at a time.
        chunks: Samples.
        x: [P].
        buffers: [Q].
    """
    each = _Gradients(task, buffers)
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    at_a_time = max(1, HELD_NUMBERS // len(x))
    for inputs, targets in chunks:
        for some in zip(inputs.split(at_a_time), targets.split(at_a_time), strict=True):
            squared = each(x.detach(), *some).double().square().sum(1)
            sums += torch.stack([squared**power for power in (1, 2, 0)]).sum(1)
    return sums


class _Gradients:
    """Per-sample gradients [b, P]; by vmap where the model allows it."""

    def __init__(self, task: Task, buffers: Vector) -> None:
        gradients_without_it()
        self._task, self._buffers, self._vmapped = task, buffers, True

    def __call__(self, x: Vector, inputs: torch.Tensor, targets: torch.Tensor) -> Rows:
        if self._vmapped:
            try:
                return vmap(grad(self._of_one), in_dims=(None, 0, 0))(x, inputs, targets)
            except (RuntimeError, NotImplementedError, ValueError):
                self._vmapped = False  # a module that vmap cannot run goes sample by sample
        rows = [grad(self._of_one)(x, *one) for one in zip(inputs, targets, strict=True)]
        return torch.stack(rows)

    def _of_one(self, x: Vector, one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self._task.loss(x, (one[None], target[None]), self._buffers)
