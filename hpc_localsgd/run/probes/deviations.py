"""What the workers' own deviations say about the landscape, without a gradient.

At an exchange (before it where it makes them equal, after it where it does not: `probes.exchange`)
the K workers are samples around their mean w, d_k = w_k - w, with the covariance
Xi = 1/K sum_k d_k d_k^T. Evaluating the loss on a fixed subset of undisturbed samples at w, w + d_k
and w - d_k gives

    gap          1/K sum_k L(w + d_k) - L(w)                              ~ 1/2 tr(H Xi)
    half trace   1/(2K) sum_k [L(w + d_k) + L(w - d_k) - 2 L(w)]          = 1/2 tr(H Xi) + O(d^4)
    curvature    [L(w + d_k) + L(w - d_k) - 2 L(w)] / |d_k|^2             ~ d_k^T H d_k / |d_k|^2

where the gap's own error is of third order. Decentralised and local SGD descend L + 1/2 tr(H Xi)
(Zhu et al., ICML 2023, arXiv:2306.02913). tr Xi is the spread. What is no larger than the rounding
of the dtype is not given out as a landscape: workers that agree to rounding have Xi = 0, and a
difference of losses below the rounding of a loss is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.curvature.eigenvalues import descending
from hpc_localsgd.run.probes.base import Measurement
from hpc_localsgd.run.probes.exchange import MOMENT, AtExchange, ExchangeView

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World

BLOCK = 1 << 18  # parameters of all workers that are brought together at a time


@dataclass(frozen=True)
class Deviations(AtExchange):
    """Eigenvalues of Xi, and the loss along the deviations.

    Costs no gradient, but 2 R + 1 evaluations of the subset on every rank, and for the eigenvalues
    all workers' parameters travel to all ranks once, as for a snapshot of the workers.

    Attributes:
        every: Cadence in steps.
        samples: About this many training samples, the same at every exchange.
    """

    every: int
    samples: int = 512

    def measure(self, exchange: ExchangeView) -> Iterator[Measurement]:
        """Yield `xi/trace`, `xi/eigenvalues`, `xi/mean_loss`, `xi/worker_loss`, `xi/gap`, ..."""
        world, apart = exchange.run.world, exchange.rows - exchange.mean
        K, eps = world.K, torch.finfo(apart.dtype).eps
        values = descending(gram(apart, world), eps) / K
        equal = bool(values.sum() <= exchange.rounding)
        values = np.zeros_like(values) if equal else values
        about = f"tr Xi {MOMENT}: the spread"
        yield Measurement("xi/trace", float(values.sum()), "1", (), about)
        about = f"eigenvalues of Xi {MOMENT}, descending; its other P - K are 0"
        yield Measurement("xi/eigenvalues", values, "1", ("rank",), about)
        apart = torch.zeros_like(apart) if equal else apart
        centre, there, opposite = self._losses(exchange, apart)
        on = f"on the fixed subset, undisturbed, {MOMENT}"
        yield Measurement("xi/mean_loss", centre, "nat", (), f"mean model {on}")
        about = f"workers' models {on}; BatchNorm statistics of the mean model"
        yield Measurement("xi/worker_loss", there, "nat", ("worker",), about)
        yield from self._differences(exchange, apart, centre, (there, opposite))

    def _differences(
        self,
        exchange: ExchangeView,
        apart: Rows,
        centre: float,
        sides: tuple[np.ndarray, np.ndarray],
    ) -> Iterator[Measurement]:
        """Yield `xi/gap`, `xi/half_trace`, `xi/curvature` from losses there and opposite [K]."""
        world, (there, opposite) = exchange.run.world, sides
        lengths = world.gather(apart.double().square().sum(1).cpu().numpy())
        same, least = not lengths.any(), 8 * torch.finfo(apart.dtype).eps * abs(centre)

        def known(difference: float) -> float:
            return difference if same or abs(difference) > least else np.nan

        end = "NaN below the rounding of a loss"
        about = f"(1/K) sum_k L(w_k) - L(mean), {MOMENT}; {end}"
        yield Measurement("xi/gap", known(float(there.mean()) - centre), "nat", (), about)
        bend = there + opposite - 2 * centre
        half = known(float(bend.mean()) / 2)
        about = f"1/(2K) sum_k [L(w + d_k) + L(w - d_k) - 2 L(w)], 1/2 tr(H Xi) to 3rd order; {end}"
        yield Measurement("xi/half_trace", half, "nat", (), about)
        clear = (lengths > 0) & (np.abs(bend) > least)
        curved = np.where(clear, bend / np.where(clear, lengths, 1.0), np.nan)
        about = f"second difference of the loss along each worker's deviation; {end}"
        yield Measurement("xi/curvature", curved, "1", ("worker",), about)

    @torch.no_grad()
    def _losses(self, exchange: ExchangeView, apart: Rows) -> tuple[float, np.ndarray, np.ndarray]:
        """Return L at the mean, at w + d_k [K] and at w - d_k [K], on the whole subset."""
        run, w, buffers = exchange.run, exchange.mean, exchange.buffers
        sums = torch.zeros(2 * len(apart) + 1, dtype=torch.float64, device=w.device)
        count = 0
        for worker in range(run.world.K):
            for batch in exchange.share(worker, self.samples):
                points = (w, *(w + d for d in apart), *(w - d for d in apart))
                losses = [run.task.loss(point, batch, buffers).double() for point in points]
                sums += torch.stack(losses)
                count += 1
        mean = (sums / count).cpu().numpy()
        there, opposite = mean[1:].reshape(2, -1)
        return float(mean[0]), run.world.gather(there), run.world.gather(opposite)


def gram(apart: Rows, world: World) -> np.ndarray:
    """Return inner products of all workers' rows [R, P]: float64 [K, K], on every rank.

    Brought together block by block of the parameters. A collective, not billed.
    """
    found = np.zeros((world.K, world.K))
    for block in apart.split(BLOCK, dim=1):
        whole = world.gather(block.contiguous().cpu().numpy()).astype(np.float64)
        found += whole @ whole.T
    return found
