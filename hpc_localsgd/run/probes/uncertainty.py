"""What the workers' disagreement says about single predictions: uncertainty without extra training.

The K workers at an exchange are samples around their mean w with covariance Xi, which Zhu et al.
(ICML 2023, arXiv:2306.02913) read as an estimate of the posterior's. With p_k the probabilities
that worker k gives the classes of a test sample, and m = 1/K sum_k p_k,

    variance of a sample    1/K sum_k |p_k - m|^2 = 1/K sum_k |p_k - y|^2 - |m - y|^2

with y the label as a unit vector: it is what averaging the workers gains in their Brier score.
Both the mean model's own probabilities p(w) and the workers' average m are scored:

    nll = -log p_label        brier = |p - y|^2        (p_label of 0 is the smallest normal number)
    calibration error = sum_b n_b/n |right_b - sure_b|

the last over bins of the largest probability (Guo et al., ICML 2017): how sure predictions are and
how many are right, by themselves in `reliability`. Workers that are equal have variance 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.run.probes.base import Measurement
from hpc_localsgd.run.probes.exchange import MOMENT, AtExchange, ExchangeView

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Run

CHUNK = 1024  # samples at a time, at most
HELD = 2**23  # probabilities that a process holds for its workers: a sample of text has many
BINS = 15  # of the largest probability, of equal widths
LEAST = torch.finfo(torch.float64).tiny  # of a probability: one that rounds to 0 costs 708 nat


@dataclass(frozen=True)
class Uncertainty(AtExchange):
    """Predictive variance of the workers, and how well calibrated they and their mean model are.

    Costs R + 1 evaluations of the test samples on every rank, and all probabilities are averaged
    over the workers once. BatchNorm statistics are the mean model's, for the workers too.

    Attributes:
        every: Cadence in steps.
    """

    every: int

    def check(self, run: Run) -> None:
        """Check that the task predicts classes, see `AtExchange.check`."""
        if self.every > 0:
            run.task.probabilities(run.task.x[0], "test", range(1), run.task.buffers[0])

    def measure(self, exchange: ExchangeView) -> Iterator[Measurement]:
        """Yield `uncertainty/variance`, and scores of `mean_model` and of `workers`."""
        n = exchange.run.task.splits["test"]
        one, all_of_them, varied = Scores(), Scores(), np.zeros((2, 2))
        chunk = _at_a_time(exchange)
        for begin in range(0, n, chunk):
            rows = range(begin, min(begin + chunk, n))
            alone, mixed, variance, labels = _predicted(exchange, rows)
            one.add(alone, labels)
            right = all_of_them.add(mixed, labels)
            for i, these in enumerate((right, ~right)):
                varied[i] += float(variance[these].sum()), int(these.sum())
        about = f"1/K sum_k |p_k - mean p|^2 of a test sample's probabilities, {MOMENT}"
        total, places = float(varied[:, 0].sum() / varied[:, 1].sum()), int(varied[:, 1].sum())
        yield Measurement("uncertainty/variance", total, "1", (), about, places)
        for name, (sum_of, count) in zip(("right", "wrong"), varied, strict=True):
            said, samples = f"{about}; of those that the workers' average gets {name}", int(count)
            value = float(sum_of / count) if count else np.nan
            yield Measurement(f"uncertainty/variance_{name}", value, "1", (), said, samples)
        yield from one.measurements("uncertainty/mean_model", f"mean model, {MOMENT}")
        said = f"average of the workers' probabilities, {MOMENT}"
        yield from all_of_them.measurements("uncertainty/workers", said)


def _at_a_time(exchange: ExchangeView) -> int:
    """Return how many samples are predicted together, the same on all ranks."""
    run = exchange.run
    first, _ = run.task.probabilities(exchange.mean, "test", range(1), exchange.buffers)
    most = -(-run.world.K // run.world.n)  # workers of a process
    return min(CHUNK, max(1, HELD // (most * first.numel())))


@torch.no_grad()
def _predicted(exchange: ExchangeView, rows: range) -> tuple[torch.Tensor, ...]:
    """Return p at the mean, the workers' average [n, C], its variance [n] and labels [n]."""
    run, buffers = exchange.run, exchange.buffers
    alone, labels = run.task.probabilities(exchange.mean, "test", rows, buffers)
    each = [run.task.probabilities(x, "test", rows, buffers)[0] for x in exchange.rows]
    own = torch.stack(each)  # [R, n, C]
    mixed = run.world.mean(own.flatten(1).clone())[0].view_as(alone)
    apart = (own - mixed).square().sum(2)
    return alone, mixed, run.world.mean(apart)[0], labels


class Scores:
    """Sums over samples of what probabilities are worth.

    Attributes:
        n: Samples.
        nll: Sum of -log p_label.
        brier: Sum of |p - y|^2.
        bins: [BINS, 3], of the largest probability: its sum, right answers, samples.
    """

    def __init__(self) -> None:
        self.n, self.nll, self.brier = 0, 0.0, 0.0
        self.bins = np.zeros((BINS, 3))

    def add(self, p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add probabilities [n, C] of samples with labels [n]; return which are right, bool [n]."""
        of_label = p.gather(1, labels[:, None])[:, 0]
        sure, guess = p.max(1)
        right = guess == labels
        self.n += len(labels)
        self.nll -= float(of_label.clamp(min=LEAST).log().sum())  # NaN stays NaN
        self.brier += float((p.square().sum(1) - 2 * of_label + 1).sum())
        # What is not a number makes all sums so; it needs a bin all the same.
        where = (sure.nan_to_num(0.0) * BINS).long().clamp(0, BINS - 1).cpu().numpy()
        ones = np.ones(len(where))
        for i, weight in enumerate((sure.cpu().numpy(), right.cpu().numpy(), ones)):
            self.bins[:, i] += np.bincount(where, weight, BINS)
        return right

    @property
    def calibration_error(self) -> float:
        """The expected calibration error."""
        return float(np.abs(self.bins[:, 1] - self.bins[:, 0]).sum() / self.n)

    def measurements(self, name: str, whose: str) -> Iterator[Measurement]:
        """Yield `NAME/nll`, `NAME/brier`, `NAME/calibration_error` and `NAME/reliability`."""
        about = f"on the test samples: {whose}"
        yield Measurement(f"{name}/nll", self.nll / self.n, "nat", (), f"loss {about}", self.n)
        brier = self.brier / self.n
        yield Measurement(f"{name}/brier", brier, "1", (), f"|p - y|^2 {about}", self.n)
        said = f"expected calibration error, {BINS} bins, {about}"
        error = self.calibration_error
        yield Measurement(f"{name}/calibration_error", error, "1", (), said, self.n)
        count = self.bins[:, 2:]
        with np.errstate(invalid="ignore"):
            means = np.where(count > 0, self.bins[:, :2] / count, np.nan)
        table = np.concatenate([means, count / self.n], axis=1)
        said = f"mean of the largest p, share of right answers, share of samples, {about}"
        yield Measurement(f"{name}/reliability", table, "1", ("bin", "what"), said, self.n)
