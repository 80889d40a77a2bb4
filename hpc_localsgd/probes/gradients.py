"""What one extra gradient says: the effective learning rate, and the noise of the gradient.

With g = grad L(w) at the mean w of the workers and g_a = 1/K sum_k grad L_k(w_k), the mean gradient
that the workers' next batches give where they are,

    lr g_a = alpha_e g + e,  e . g = 0        alpha_e = lr <g_a, g> / |g|^2,  Delta = |e|^2

(Zhang et al., arXiv:2112.01433). alpha_e falls below lr where the workers are spread over a rough
landscape. The gradients at the mean of the workers' parts of the subset, b samples each, also give
the noise scale tr Sigma / |grad L|^2 without bias in numerator and denominator (McCandlish et al.,
arXiv:1812.06162, appendix A.1): with B = K b

    |grad L|^2 = (B |g|^2 - b mean_k |g_k|^2) / (B - b)
    tr Sigma   = (mean_k |g_k|^2 - |g|^2) / (1/b - 1/B)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.probes.base import Measurement
from hpc_localsgd.probes.exchange import AtExchange, Exchange, gradient

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows


@dataclass(frozen=True)
class Gradients(AtExchange):
    """Zhang's effective learning rate, the part of the step across the gradient, the noise scale.

    All gradients are of the plain loss in evaluation mode, so that measuring changes nothing: with
    dropout, BatchNorm, SAM or momentum they are not exactly those of the run's own step. Each
    worker computes two: at its own parameters on the batch it takes next, and at the mean on its
    part of the subset.

    Attributes:
        every: Cadence in steps.
        samples: About this many training samples, the same at every exchange, for g.
    """

    every: int
    samples: int = 512
    in_parallel = True

    def measure(self, exchange: Exchange) -> Iterator[Measurement]:
        """`gradient/effective_lr`, `gradient/orthogonal`, `gradient/norm`, `gradient/noise_...`."""
        world, lr = exchange.run.world, exchange.lr
        own = world.mean(self._of_next_batches(exchange))[0].double()
        parts = self._at_mean(exchange)
        squared = world.gather(parts.double().square().sum(1).cpu().numpy())
        g = world.mean(parts)[0].double()
        size = float(g.square().sum())
        effective = lr * float(own @ g) / size if size > 0 else np.nan
        about = "lr <g_a, g> / |g|^2, g at the mean model, g_a the mean of the workers' own"
        yield Measurement("gradient/effective_lr", effective, "1", (), about)
        across = float((lr * own - effective * g).square().sum()) if size > 0 else np.nan
        about = "|lr g_a - alpha_e g|^2, the part of the step orthogonal to the gradient"
        yield Measurement("gradient/orthogonal", across, "1", (), about)
        about = "length of the gradient at the mean model, on the fixed subset"
        yield Measurement("gradient/norm", float(np.sqrt(size)), "1", (), about)
        noise, signal = self._noise(exchange, squared, size)
        about = "trace of the covariance of one sample's gradient, unbiased"
        yield Measurement("gradient/noise_trace", noise, "1", (), about)
        about = "|grad L|^2, unbiased: it may be negative; average both before dividing"
        yield Measurement("gradient/signal", signal, "1", (), about)
        scale = noise / signal if signal > 0 else np.nan
        about = "tr Sigma / |grad L|^2: the batch at which noise and gradient are of one size"
        yield Measurement("gradient/noise_scale", scale, "samples", (), about)

    def _of_next_batches(self, exchange: Exchange) -> Rows:
        """Each worker's gradient where it is, on the batch it takes next: [R, P]."""
        run, t = exchange.run, exchange.t
        rows = []
        for worker, x in zip(run.world.ranks, exchange.before, strict=True):
            inputs, targets = run.task.batch([worker], t)
            rows.append(gradient(run, x, [(inputs[0], targets[0])], exchange.buffers))
        return torch.stack(rows)

    def _at_mean(self, exchange: Exchange) -> Rows:
        """Each worker's gradient at the mean model, on its part of the subset: [R, P]."""
        run, w, buffers = exchange.run, exchange.mean, exchange.buffers
        parts = (exchange.share(worker, self.samples) for worker in run.world.ranks)
        return torch.stack([gradient(run, w, batches, buffers) for batches in parts])

    def _noise(self, exchange: Exchange, squared: np.ndarray, size: float) -> tuple[float, float]:
        """Trace of Sigma and |grad L|^2, unbiased; NaN for one worker, with nothing to compare."""
        K = len(squared)
        if K == 1:
            return np.nan, np.nan
        steps = len(exchange.share(0, self.samples))
        b = exchange.run.task.partition.batch * steps
        B = K * b
        noise = (float(squared.mean()) - size) / (1 / b - 1 / B)
        signal = (B * size - b * float(squared.mean())) / (B - b)
        return noise, signal
