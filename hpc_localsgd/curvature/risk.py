"""The mean loss over a subset as a function of one flat vector: values, gradients, Hessians.

    L(x) = 1/N sum_i l(x; i)            H v = d/dx (v . dL/dx)      (Pearlmutter, 1994)

In evaluation mode, with given BatchNorm statistics. The gradient's graph is built once for many
vectors: m products are m backward passes through it, in one batched pass where that is faster.
Matrices made of the outputs' Jacobian (Gauss-Newton, Fisher) are in `gauss_newton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.curvature.gauss_newton import Middle, OuterProducts, squared_gradients
from hpc_localsgd.curvature.pullback import PullBack
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Batch, Task

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

KEPT_CHUNKS = 16  # whose graphs are kept between products, for models up to ...
KEPT_P = 1_000_000  # ... so many parameters: there a graph is small and rebuilding it costs half


class Risk:
    """Loss of a task on this rank's chunks, as its part of the mean over all samples.

    Parts of several ranks add up to the mean. After `at`, `products` multiplies with the Hessian
    there.

    Attributes:
        task: The task.
        chunks: Inputs [b, ...] and targets [b].
        total: N, samples of all ranks together.
        buffers: [Q], BatchNorm's statistics that are used.
    """

    def __init__(self, task: Task, chunks: Sequence[Batch], total: int | None = None) -> None:
        """Hold a share of the subset.

        Args:
            task: Only its `loss`, `dim` and `buffers` are used.
            chunks: This rank's chunks; may be none.
            total: N, by default the samples in the chunks.
        """
        self.task, self.chunks = task, list(chunks)
        self.total = total or sum(len(targets) for _, targets in chunks)
        self.buffers: Vector = task.buffers[0]
        self._x: Vector | None = None
        self._gradients: list[torch.Tensor] = []
        self._outer: OuterProducts | None = None
        self._pull = PullBack(task.dim, self.buffers.device)
        self._keep = len(self.chunks) <= KEPT_CHUNKS and task.dim <= KEPT_P

    def at(self, x: Vector, buffers: Vector | None = None) -> Risk:
        """Take the Hessian at x [P] from now on, with these buffers [Q].

        Raises:
            ConfigurationError: The loss is not a function: evaluated twice it differs.
        """
        self._x = x.detach().to(self.task.buffers.dtype).clone().requires_grad_()
        self._gradients, self._outer = [], None
        if buffers is not None:
            self.buffers = buffers
        self._check_deterministic()
        return self

    @torch.no_grad()
    def losses(self, points: Rows) -> torch.Tensor:
        """Return this rank's part of the loss at points [m, P]: float64 [m]."""
        return torch.stack([self._part(x) for x in points])

    def gradient(self, x: Vector) -> Vector:
        """Return this rank's part of the gradient at x [P]: [P]."""
        x = x.detach().clone().requires_grad_()
        found = torch.zeros_like(x)
        for chunk in self.chunks:
            found += torch.autograd.grad(self._loss(x, chunk), x)[0]
        return found.detach()

    def products(self, vectors: Rows) -> Rows:
        """Return this rank's part of the Hessian at the point of `at` times vectors [m, P]: [m, P].

        Raises:
            RuntimeError: `at` was never called.
        """
        x = self._point()
        found = torch.zeros_like(vectors)
        for i in range(len(self.chunks)):
            g = self._gradient_graph(i)
            if g.requires_grad:  # a loss that is linear in x has no second derivative
                found += self._pull(g, x, vectors, self._keep)
        return found

    def outer_products(self, vectors: Rows, middle: Middle) -> Rows:
        """Return this rank's part of the Gauss-Newton or Fisher matrix times vectors: [m, P].

        Args:
            vectors: [m, P].
            middle: "ggn" (for cross entropy the true Fisher) or "fisher" (the empirical one).

        Raises:
            RuntimeError: `at` was never called.
            ConfigurationError: The task has no outputs to take them from.
        """
        if self._outer is None:
            x, where = self._point(), (self.task, self.chunks, self.total)
            self._outer = OuterProducts(*where, x, self.buffers, self._pull, self._keep)
        return self._outer.products(vectors, middle)

    def squared_gradients(self) -> torch.Tensor:
        """Return sums over this rank's samples of |g_i|^2, |g_i|^4 and 1: float64 [3].

        Raises:
            RuntimeError: `at` was never called.
        """
        return squared_gradients(self.task, self.chunks, self._point(), self.buffers)

    def _point(self) -> Vector:
        if self._x is None:
            raise RuntimeError("Risk.at(x) says where the Hessian is taken: call it first")
        return self._x

    def _gradient_graph(self, i: int) -> torch.Tensor:
        """Return the gradient [P] on chunk i, differentiable; cached between products if small."""
        if self._keep and len(self._gradients) == len(self.chunks):
            return self._gradients[i]
        x = self._point()
        (g,) = torch.autograd.grad(self._loss(x, self.chunks[i]), x, create_graph=True)
        if self._keep:
            self._gradients.append(g)
        return g

    def _loss(self, x: Vector, chunk: Batch) -> torch.Tensor:
        return self.task.loss(x, chunk, self.buffers) * (len(chunk[1]) / self.total)

    def _part(self, x: Vector) -> torch.Tensor:
        x = x.to(self.task.buffers.dtype)
        parts = [self._loss(x, chunk).double() for chunk in self.chunks]
        return torch.stack(parts).sum() if parts else x.new_zeros((), dtype=torch.float64)

    def _check_deterministic(self) -> None:
        """Check that two evaluations of the first chunk, loss and gradient, are equal."""
        if not self.chunks or self._x is None:
            return
        first, second = self._looked_at(), self._looked_at()
        # Not to the last bit: some kernels on a GPU add in any order.
        slack = 1e4 * torch.finfo(first.dtype).eps
        apart = float((first - second).norm() / first.norm().clamp_min(1e-300))
        if apart > slack:
            raise ConfigurationError(
                f"the loss is not deterministic: evaluated twice at the same parameters on the "
                f"same samples, it and its gradient differ by {apart:.1e} of their size. Curvature "
                "needs a function: Task.loss must be in evaluation mode and draw no random numbers"
            )

    def _looked_at(self) -> torch.Tensor:
        """Return the loss and gradient on the first chunk, [1 + P]."""
        x = self._point()
        loss = self._loss(x, self.chunks[0])
        (g,) = torch.autograd.grad(loss, x)
        return torch.cat([loss.detach()[None], g])
