"""Ranks that share the samples: rank 0 decides what is computed, all compute it together.

Only rank 0 runs the estimators. Whatever it asks for (losses, a gradient, Hessian-vector products)
it broadcasts; every rank computes its samples' part, and the parts are summed through the world.
So ranks need not agree on when an iteration has converged, and none can be left waiting.

A request and its first vector travel in one message: an iteration that asks for one product at a
time waits for one broadcast and one sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.curvature import Risk, in_chunks, pieces
from hpc_localsgd.curvature.subset import statistics_sum, subset_size
from hpc_localsgd.engine.agreement import agree
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows, Vector
    from hpc_localsgd.worlds.base import World

END, AT, LOSSES, GRADIENT, PRODUCTS, GGN, FISHER, SQUARED = range(8)


class SharedLoss:
    """The loss over the whole subset, of which each rank has a share.

    On rank 0 call `at`, `losses`, `gradient`, `products` and, at the end, `finish`; on the others
    `serve`. Nothing of it is billed.

    Attributes:
        samples: Size of the subset.
        like: A vector of the dtype and device of the computation.
        products_taken: Hessian-vector products so far.
    """

    def __init__(self, world: World, task: Task, samples: int, chunk: int) -> None:
        """Take this rank's share of the samples.

        Raises:
            ConfigurationError: On all ranks alike, if there are more of them than pieces.
        """
        self._world, self.task = world, task
        self.like = task.x[0]
        self.samples = subset_size(task, samples or None)
        b = task.partition.batch
        if world.n > -(-self.samples // b):
            raise ConfigurationError(
                f"{world.n} ranks cannot share {self.samples} samples in pieces of {b}: start "
                f"at most {-(-self.samples // b)} ranks, or raise --samples"
            )
        self._parts = pieces(task, self.samples, world.rank, world.n)
        self._risk = Risk(task, in_chunks(self._parts, chunk), self.samples)
        self._over = False
        self.products_taken = 0

    def at(self, x: Vector) -> None:
        """Use the Hessian at x [P] from now on, BatchNorm's statistics re-estimated there.

        Raises:
            ConfigurationError: On all ranks alike, if the loss is not deterministic.
        """
        self._ask(AT, x[None])

    def losses(self, points: Rows) -> torch.Tensor:
        """Return the loss at points [m, P], with the statistics of the latest `at`: float64 [m]."""
        return self._ask(LOSSES, points)

    def gradient(self, x: Vector) -> Vector:
        """Return the gradient at x [P]: [P]."""
        return self._ask(GRADIENT, x[None])

    def products(self, vectors: Rows) -> Rows:
        """Return the Hessian at the latest `at` times vectors [m, P]: [m, P]."""
        self.products_taken += len(vectors)
        return self._ask(PRODUCTS, vectors)

    def ggn(self, vectors: Rows) -> Rows:
        """Return the generalised Gauss-Newton matrix there times vectors [m, P]: [m, P]."""
        self.products_taken += len(vectors)
        return self._ask(GGN, vectors)

    def fisher(self, vectors: Rows) -> Rows:
        """Return the empirical Fisher matrix there times vectors [m, P]: [m, P]."""
        self.products_taken += len(vectors)
        return self._ask(FISHER, vectors)

    def squared_gradients(self) -> torch.Tensor:
        """Return sums over the samples of |g_i|^2, |g_i|^4 and 1 there: float64 [3]."""
        return self._ask(SQUARED, self.like[None])

    def finish(self, failed: bool = False) -> None:
        """Release the other ranks, once; they fail too if `failed`."""
        if not self._over and self._world.n > 1:
            self._message(END, self.like.repeat(1 + failed, 1))
        self._over = True

    def serve(self) -> None:
        """Compute, on ranks other than 0, what rank 0 asks for, until it has finished.

        Raises:
            ConfigurationError: Rank 0 has met one, and says what it is.
        """
        while True:
            what, rows = self._message(END, self.like[None])
            if what == END:
                if len(rows) > 1:
                    raise ConfigurationError("")
                return
            self._answer(what, rows)

    def _ask(self, what: int, rows: Rows) -> torch.Tensor:
        rows = rows.contiguous().to(self.task.x)
        if self._world.n > 1:
            self._message(what, rows)
        return self._answer(what, rows)

    def _answer(self, what: int, rows: Rows) -> torch.Tensor:
        """Sum over all ranks what each computes from the rows [m, P] with its samples."""
        if what == AT:
            self._move(rows[0])
            return rows
        parts: dict[int, Callable[[Rows], torch.Tensor]] = {
            LOSSES: self._risk.losses,
            GRADIENT: lambda points: self._risk.gradient(points[0]),
            PRODUCTS: self._risk.products,
            GGN: lambda vectors: self._risk.outer_products(vectors, "ggn"),
            FISHER: lambda vectors: self._risk.outer_products(vectors, "fisher"),
            SQUARED: lambda _: self._risk.squared_gradients(),
        }
        return self._sum(parts[what](rows))

    def _move(self, x: Vector) -> None:
        summed = self._sum(statistics_sum(self.task, x, self._parts, self.samples))
        buffers = summed[:-1] / summed[-1]
        try:
            agree(self._world, lambda: self._risk.at(x, buffers))
        except ConfigurationError:
            self._over = True  # on every rank: none waits for a request
            raise

    def _sum(self, part: torch.Tensor) -> torch.Tensor:
        if self._world.n == 1:
            return part
        with self._world.ledger.unbilled():
            row = part.contiguous().view(1, -1)
            return (self._world.mean(row) * self._world.n).view(part.shape)

    def _message(self, what: int, rows: Rows) -> tuple[int, Rows]:
        """Return rank 0's request and its rows [m, P], on every rank."""
        P = self.task.dim
        message = rows.new_empty(1, P + 2)  # small whole numbers are exact in any dtype
        message[0, :P], message[0, P], message[0, P + 1] = rows[0], what, len(rows)
        self._world.broadcast(message)
        asked, count = int(message[0, P]), int(message[0, P + 1])
        if self._world.rank != 0:
            rows = rows.new_empty(count, P)
            rows[0] = message[0, :P]
        if count > 1:
            rest = rows[1:].contiguous().view(1, -1)
            rows[1:] = self._world.broadcast(rest).view(count - 1, P)
        return asked, rows


def text_of_rank_0(world: World, text: str) -> str:
    """Return rank 0's text on every rank."""
    raw = text.encode()
    # Two numbers: torch does not copy a tensor of shape [1, 1] onto itself.
    length = torch.tensor([[len(raw), 0]], dtype=torch.int64, device=world.device)
    row = torch.zeros(1, int(world.broadcast(length)[0, 0]), dtype=torch.uint8, device=world.device)
    if world.rank == 0:
        row[0] = torch.frombuffer(bytearray(raw), dtype=torch.uint8).to(world.device)
    return bytes(world.broadcast(row)[0].cpu().numpy()).decode()
