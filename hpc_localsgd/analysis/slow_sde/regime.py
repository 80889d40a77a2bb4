"""What of a run enters the Slow SDE: workers, batch, learning rate, length of a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis.costs import averages_every_step
from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.slow_sde.lyapunov import lyapunov
from hpc_localsgd.analysis.slow_sde.psi import psi

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Trajectory


@dataclass(frozen=True)
class Regime:
    """K workers that average after every H steps.

    Attributes:
        K: Workers. 1 is SGD.
        batch: B, samples of all workers together in one step.
        lr: Learning rate eta.
        H: Local steps in a round. 1 is parallel SGD; `math.inf` the limit of endless rounds.
        finite: Keep what the limit eta -> 0 drops. The Slow SDE is that limit, at fixed eta H;
            with few local steps (H below about 1 / (eta lambda)) psi is visibly too large, and
            this is the form to compare experiments with. H = 1 is then exactly SGD.
    """

    K: int
    batch: int
    lr: float
    H: float = 1
    finite: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; raise ValueError for what no run can have."""
        if self.K < 1 or self.batch < 1 or not self.lr > 0 or not self.H >= 1:
            raise ValueError(f"{self}: K, batch and H are at least 1, and lr is positive")

    def boost(self, total: np.ndarray) -> np.ndarray:
        """Return the ratio of a worker's covariance to the mean's: 1 + (K - 1) psi(eta H (...)).

        h steps after an exchange it is 1 + (K - 1)(1 - r^h) times that of the mean, with
        r = e^{-eta total}; psi is the average over a round. With `finite` it is the average over
        the H points at which gradients are taken, 1 + (K - 1)(1 - (1 - r^H) / (H (1 - r))).

        Args:
            total: lambda_i + lambda_j for the Slow SDE; with `finite`, 1 - r with
                r = (1 - eta lambda_i)(1 - eta lambda_j), divided by eta.

        Returns:
            Of the shape of `total`.
        """
        total = np.asarray(total, dtype=np.float64)
        if np.isinf(self.H):
            return np.where(total > 0, float(self.K), 1.0)
        if not self.finite:
            return 1.0 + (self.K - 1) * psi(self.lr * self.H * total)
        return finite_boost(self.K, self.lr, self.H, total)

    def covariance(self, hessian: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Return the covariance of a worker around the manifold, averaged over a round.

        Without `finite`: (eta / B) (hatSigma + (K - 1) hatPsi). With it, the exact balance of the
        linear recursion, C_ij = (eta / B) Sigma_ij / (l_i + l_j - eta l_i l_j) times `boost`;
        in one direction that is eta / (B (2 - eta l)) Sigma / l.

        Args:
            hessian: [d, d] at a point of the manifold.
            sigma: [d, d], covariance of one sample's gradient, without its tangent part.

        Returns:
            [d, d].

        Raises:
            ValueError: With `finite`: eta lambda >= 2, where the recursion has no balance.
        """

        def weight(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            total = first + second
            if not self.finite:
                return self.boost(total)
            exact = total - self.lr * first * second  # (1 - r) / eta
            if self.lr * first.max() >= 2:
                raise ValueError(
                    f"lr {self.lr:g} x curvature {first.max():.4g} is not below 2: steps of this "
                    "size leave the manifold instead of settling around it"
                )
            return np.where(exact > 0, total / np.where(exact > 0, exact, 1.0), 1.0) * self.boost(
                exact
            )

        return self.lr / self.batch * lyapunov(hessian, sigma, weight)

    def sgd(self) -> Regime:
        """Return the same regime without local steps."""
        return replace(self, H=1, K=1)

    @staticmethod
    def of(run: Trajectory, step: int, *, finite: bool = True) -> Regime:
        """Return the regime of a recorded run at a step: K, eta and H from its file.

        Eta is that of the step where the configuration tells it, else of the round's first one.

        Args:
            run: The record.
            step: Global step; the round that holds it counts.
            finite: See the class.

        Raises:
            ValueError: No round of the record holds the step.
        """
        rounds = run.rounds
        at = np.flatnonzero((rounds.step_begin <= step) & (step < rounds.step_end))
        if not len(at):
            raise ValueError(f"{run.path}: no round holds step {step}; it has {rounds!r}")
        batch = int(run.config["batch_per_worker"]) * run.K
        i = int(at[-1])
        rate = rate_of(run)
        lr = float(rounds.lr[i]) if rate is None else rate(step)
        H = 1 if averages_every_step(run) else int(rounds.local_steps[i])
        return Regime(run.K, batch, lr, H, finite)


def finite_boost(
    K: int, lr: float | np.ndarray, H: float | np.ndarray, total: np.ndarray
) -> np.ndarray:
    """Return `Regime.boost` with `finite`; rates and lengths of rounds may be arrays.

    Args:
        K: Workers.
        lr: Learning rates eta, positive.
        H: Lengths of rounds, at least 1 and finite; H, `lr` and `total` broadcast.
        total: (1 - r) / eta.
    """
    lost = np.where(total > 0, lr * total, 1.0)  # 1 - r
    small = np.minimum(lost, 0.5)  # 1 - (1 - lost)^H has no digits left where lost is tiny
    kept = np.where(
        lost <= 0.5,
        -np.expm1(H * np.log1p(-small)) / (H * small),
        (1.0 - (1.0 - lost) ** H) / (H * lost),
    )
    return 1.0 + (K - 1) * np.where(total > 0, 1.0 - kept, 0.0)
