"""What one extra gradient says: the effective learning rate, and the noise of the gradient.

With g = grad L(w) at the mean w of the workers and g_a = 1/K sum_k grad L_k(w_k), the mean gradient
that the workers' next batches give where they are,

    lr g_a = alpha_e g + e,  e . g = 0        alpha_e = lr <g_a, g> / |g|^2,  Delta = |e|^2

(Zhang et al., arXiv:2112.01433). alpha_e falls below lr where the workers are spread over a rough
landscape. Where the workers are: see `probes.exchange` for the moment.

The noise has two parts. With g_S = 1/K sum_k grad L_k(w), of the same batches at the mean w,

    Delta_S = lr^2 |g_S|^2,   Delta_2 = lr^2 |g_a - g_S|^2,   both without what is along g

Delta_S is of the samples, and there without spread; Delta_2 is of the spread, to first order
lr^2 |1/K sum_k H_k (w_k - w)|^2 with the Hessians H_k of the batches, and so depends on the
landscape. Delta is their sum and twice the product of both parts, of any sign, whose mean vanishes
where the spread has nothing to do with the next batch.

What describes the loss (alpha_e, |g|) is of undisturbed samples, g_a included, so that without
spread alpha_e is lr. What describes the noise of a step (Delta, tr Sigma, the noise scale) is of
samples as they are trained on: augmentation, label noise and mixup are part of it.

g is known on n samples only, and late in a run the noise in it is larger than itself: |g|^2 is too
large by tr Sigma / n, and alpha_e would fall below lr without any spread. So every worker computes
its part of g as two halves a_k and b_k of m samples each, and with n = 2 K m of N samples

    tr Sigma   = m/2 mean_k |a_k - b_k|^2
    |grad L|^2 = |g|^2 - tr Sigma (1/n - 1/N)

have no bias, also where the workers' data differ (1/N is 0 where samples are drawn with
replacement, or are others every time: there are endlessly many). alpha_e is divided by the latter.
Their ratio is the gradient noise scale of McCandlish et al., arXiv:1812.06162, appendix A.1, who
compare a small batch with a large one instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.run.probes.base import Measurement
from hpc_localsgd.run.probes.exchange import MOMENT, AtExchange, ExchangeView, gradient

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector


@dataclass(frozen=True)
class _Sides:
    """Both sides of the comparison on one kind of samples.

    Attributes:
        own: g_a, [P].
        sampled: g_S, [P].
        g: At the mean model on the subset, [P].
        noise: tr Sigma.
        signal: |grad L|^2, unbiased.
    """

    own: Vector
    sampled: Vector
    g: Vector
    noise: float
    signal: float

    @property
    def size(self) -> float:
        """Squared norm |g|^2."""
        return float(self.g.square().sum())

    def across(self, v: Vector) -> float:
        """Return |v|^2 of a vector [P], without its part along g."""
        along = float(v @ self.g) / self.size if self.size > 0 else np.nan
        return float((v - along * self.g).square().sum())


@dataclass(frozen=True)
class Gradients(AtExchange):
    """Zhang's effective learning rate, the part of the step across the gradient, the noise scale.

    All gradients are of the plain loss in evaluation mode, so that measuring changes nothing: with
    dropout, BatchNorm, SAM or momentum they are not exactly those of the run's own step. Each
    worker computes four: at its own parameters and at the mean on the batch it takes next, and at
    the mean on the halves of its part of the subset; eight where the task disturbs its samples.

    Attributes:
        every: Cadence in steps.
        samples: About this many training samples, the same at every exchange, for g; at least two
            batches a worker.
        fresh: Whether training samples are others every time they are due.
    """

    every: int
    samples: int = 512
    fresh: bool = False
    in_parallel = True

    def measure(self, exchange: ExchangeView) -> Iterator[Measurement]:
        """Yield `gradient/effective_lr`, `.../orthogonal`, `.../norm`, `.../noise_...`."""
        stored = self._sides(exchange, undisturbed=True)
        trained = self._sides(exchange, undisturbed=False) if self.fresh else stored
        yield from self._of_the_loss(stored, exchange.lr)
        yield from self._of_the_noise(trained, exchange.lr)

    def _of_the_loss(self, found: _Sides, lr: float) -> Iterator[Measurement]:
        """Yield what undisturbed samples give."""
        dot = float(found.own @ found.g)
        effective = lr * dot / found.signal if found.signal > 0 else np.nan
        about = (
            f"lr <g_a, g> / |grad L|^2, g at the mean model, g_a the mean of the workers' own"
            f" {MOMENT}, on undisturbed samples;"
            " NaN where the subset is too small to tell the gradient from its noise"
        )
        yield Measurement("gradient/effective_lr", effective, "1", (), about)
        about = "length of the gradient at the mean model, on the fixed subset, undisturbed"
        yield Measurement("gradient/norm", float(np.sqrt(found.size)), "1", (), about)

    def _of_the_noise(self, found: _Sides, lr: float) -> Iterator[Measurement]:
        """Yield what samples give as they are trained on."""
        on = "of samples as they are trained on"
        about = f"|lr g_a|^2 without what of it is along g, {on}, {MOMENT}"
        yield Measurement("gradient/orthogonal", lr**2 * found.across(found.own), "1", (), about)
        part = lr**2 * found.across(found.sampled)
        about = f"Delta_S: |lr g_S|^2 across g, the same batches at the mean model, {on}, {MOMENT}"
        yield Measurement("gradient/orthogonal_of_samples", part, "1", (), about)
        part = lr**2 * found.across(found.own - found.sampled)
        about = f"Delta_2: |lr (g_a - g_S)|^2 across g, what the spread adds, {on}, {MOMENT}"
        yield Measurement("gradient/orthogonal_of_spread", part, "1", (), about)
        about = f"trace of the covariance of the gradient {on}, one by one, unbiased"
        yield Measurement("gradient/noise_trace", found.noise, "1", (), about)
        about = f"|grad L|^2 {on}, unbiased: it may be negative; average both before dividing"
        yield Measurement("gradient/signal", found.signal, "1", (), about)
        scale = found.noise / found.signal if found.signal > 0 else np.nan
        about = "tr Sigma / |grad L|^2: the batch at which noise and gradient are of one size"
        yield Measurement("gradient/noise_scale", scale, "samples", (), about)

    def _sides(self, exchange: ExchangeView, undisturbed: bool) -> _Sides:
        world = exchange.run.world
        centre = exchange.mean.expand_as(exchange.rows)
        own, sampled = (
            world.mean(self._of_next_batches(exchange, at, undisturbed))[0].double()
            for at in (exchange.rows, centre)
        )
        parts, seen, n = self._at_mean(exchange, undisturbed)
        noise = float(world.gather(seen).mean())
        g = world.mean(parts)[0].double()
        missing = self._missing(exchange, n, undisturbed)
        return _Sides(own, sampled, g, noise, float(g.square().sum()) - noise * missing)

    def _of_next_batches(self, exchange: ExchangeView, at: Rows, undisturbed: bool) -> Rows:
        """Return each worker's gradient at its row of `at` on its next batch: [R, P]."""
        run, t = exchange.run, exchange.t
        rows = []
        for worker, x in zip(run.world.local_workers, at, strict=True):
            batch = exchange.batch(worker, t, undisturbed)
            rows.append(gradient(run, x, [batch], exchange.buffers))
        return torch.stack(rows)

    def _missing(self, exchange: ExchangeView, n: int, undisturbed: bool) -> float:
        """Return 1/n - 1/N, the variance factor of a subset of n out of N samples."""
        partition = exchange.run.task.partition
        endless = (self.fresh and not undisturbed) or partition.replacement
        return 1 / n if endless else max(0.0, 1 / n - 1 / partition.samples)

    def _at_mean(self, exchange: ExchangeView, undisturbed: bool) -> tuple[Rows, np.ndarray, int]:
        """Return, at the mean model, parts of g [R, P], estimates of tr Sigma [R], and n."""
        run, w, buffers = exchange.run, exchange.mean, exchange.buffers
        step = run.world.K * run.task.partition.batch  # samples of all workers
        most = min(self.samples, run.task.partition.samples)
        half = max(1, most // (2 * step))  # batches
        parts, noise = [], []
        for worker in run.world.local_workers:
            batches = exchange.share(worker, 2 * half * step, undisturbed)
            a, b = (gradient(run, w, batches[i::2], buffers).double() for i in range(2))
            parts.append(((a + b) / 2).to(w))
            m = half * run.task.partition.batch
            noise.append(m / 2 * float((a - b) @ (a - b)))
        return torch.stack(parts), np.array(noise), 2 * half * step
