"""The mean loss over a subset as a function of one flat vector: values, gradients, Hessians.

    L(x) = 1/N sum_i l(x; i)            H v = d/dx (v . dL/dx)      (Pearlmutter, 1994)

In evaluation mode, with given BatchNorm statistics. The gradient's graph is built once for several
vectors: m products are m backward passes through it, in one batched pass where that is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.tasks.base import Batch, Task
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

KEPT_CHUNKS = 16  # whose graphs are kept between products, for models up to ...
KEPT_P = 1_000_000  # ... so many parameters: there a graph is small and rebuilding it costs half
BATCHED_P = 4_000  # on a CPU, larger models gain nothing from several vectors in one pass


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
        self._batched: dict[int, bool] = {}  # by the number of vectors: whether torch can
        self._keep = len(self.chunks) <= KEPT_CHUNKS and task.dim <= KEPT_P

    def at(self, x: Vector, buffers: Vector | None = None) -> Risk:
        """Take the Hessian at x [P] from now on, with these buffers [Q].

        Raises:
            ConfigurationError: The loss is not a function: evaluated twice it differs.
        """
        self._x = x.detach().to(self.task.buffers.dtype).clone().requires_grad_()
        self._gradients = []
        if buffers is not None:
            self.buffers = buffers
        self._check_deterministic()
        return self

    @torch.no_grad()
    def losses(self, points: Rows) -> torch.Tensor:
        """This rank's part of the loss at points [m, P]: float64 [m]."""
        return torch.stack([self._part(x) for x in points])

    def gradient(self, x: Vector) -> Vector:
        """This rank's part of the gradient at x [P]: [P]."""
        x = x.detach().clone().requires_grad_()
        found = torch.zeros_like(x)
        for chunk in self.chunks:
            found += torch.autograd.grad(self._loss(x, chunk), x)[0]
        return found.detach()

    def products(self, vectors: Rows) -> Rows:
        """This rank's part of the Hessian at the point of `at`, times vectors [m, P]: [m, P].

        Raises:
            RuntimeError: `at` was never called.
        """
        if self._x is None:
            raise RuntimeError("Risk.at(x) says where the Hessian is taken: call it first")
        found = torch.zeros_like(vectors)
        for i in range(len(self.chunks)):
            g = self._gradient_graph(i)
            if g.requires_grad:  # a loss that is linear in x has no second derivative
                found += self._pulled_back(g, self._x, vectors)
        return found

    def _pulled_back(self, g: torch.Tensor, x: Vector, vectors: Rows) -> Rows:
        """Rows of V H from the graph of the gradient: in one batched pass, or one by one."""
        m = len(vectors)
        if m == 1 or not self._worth_batching() or self._batched.get(m) is False:
            return self._one_by_one(g, x, vectors)
        if m in self._batched:
            return self._in_one_pass(g, x, vectors, keep=self._keep)
        # torch's batching of a second backward pass is wrong for some layers (GroupNorm in
        # 2.13), and whether it then raises depends on the shapes: so it is looked at first.
        try:
            found: Rows | None = self._in_one_pass(g, x, vectors, keep=True)
        except RuntimeError:
            found = None
        checked = self._one_by_one(g, x, vectors)
        slack = 1e4 * torch.finfo(x.dtype).eps * float(checked.norm())
        self._batched[m] = found is not None and float((found - checked).norm()) <= slack
        return checked

    def _worth_batching(self) -> bool:
        """On a CPU a pass of a larger model keeps it busy by itself."""
        return self.task.buffers.device.type == "cuda" or self.task.dim <= BATCHED_P

    def _in_one_pass(self, g: torch.Tensor, x: Vector, vectors: Rows, keep: bool) -> Rows:
        how: dict[str, Any] = {"retain_graph": keep, "materialize_grads": True}
        return torch.autograd.grad(g, x, vectors, is_grads_batched=True, **how)[0]

    def _one_by_one(self, g: torch.Tensor, x: Vector, vectors: Rows) -> Rows:
        last = len(vectors) - 1
        rows = []
        for i, v in enumerate(vectors):
            how: dict[str, Any] = {"retain_graph": self._keep or i < last}
            rows.append(torch.autograd.grad(g, x, v, materialize_grads=True, **how)[0])
        return torch.stack(rows)

    def _gradient_graph(self, i: int) -> torch.Tensor:
        """The gradient [P] on chunk i, differentiable; kept between products if it is small."""
        if self._keep and len(self._gradients) == len(self.chunks):
            return self._gradients[i]
        assert self._x is not None
        loss = self._loss(self._x, self.chunks[i])
        (g,) = torch.autograd.grad(loss, self._x, create_graph=True)
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
        """Evaluate the first chunk twice, loss and gradient; both must be the same numbers."""
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
        """Loss and gradient on the first chunk, [1 + P]."""
        assert self._x is not None
        loss = self._loss(self._x, self.chunks[0])
        (g,) = torch.autograd.grad(loss, self._x)
        return torch.cat([loss.detach()[None], g])
