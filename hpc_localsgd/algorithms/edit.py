"""EDiT's pseudo-gradient penalty: an outer optimiser that leaves out outlying workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.algorithms.base import Algorithm, nesterov_step
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class EDiT(Algorithm):
    """DiLoCo that gives long differences less weight and outliers none; G_k = ||anchor - x_k||.

        left out:  k where (G_k - mu_k) / sigma_k > threshold, after `warmup` rounds, or where G_k
        is not finite
        delta <- sum_k w_k (anchor - x_k),   w_k = exp(-G_k) / sum of it, 0 if left out
        delta <- min(1, clip / ||delta||) delta        anchor <- Nesterov(anchor, delta)
        mu_k <- mu_k + a (G_k - mu_k),   sigma_k^2 <- (1 - a) (sigma_k^2 + a (G_k - mu_k)^2)

    x_k <- anchor on every worker. Workers left out keep their mu and sigma; if all are left out the
    anchor stays as it is, and every worker returns to the beginning of the round.

    Source: Cheng et al., EDiT, ICLR 2025, arXiv:2412.07210: its pseudo-gradient penalty. Threshold,
        clip, smoothing and warmup as in the example of its released code (atorch).
    Here differs: norms are of the whole model, not of a layer. lr and momentum are our choice (0.7
        and 0.8 in that example). mu begins at the first norms (there at 0).
    Sends: P numbers per worker and round, and its norm.
    Equals: DiLoCo for one worker, when threshold and clip are infinite.

    Attributes:
        lr: Outer learning rate.
        momentum: Outer Nesterov momentum.
        threshold: Standard deviations above its own mean norm from which a worker is left out.
        clip: Longest step of the average, before the outer optimiser.
        smoothing: a, weight of the last round in mu and sigma.
        warmup: Rounds in which workers are left out only where their norm is not finite.
    """

    lr: float = 0.8
    momentum: float = 0.85
    threshold: float = 3.0
    clip: float = 10.0
    smoothing: float = 0.02
    warmup: int = 10

    needs_whole_models = True

    def __post_init__(self) -> None:
        positive = self.lr > 0 and self.threshold > 0 and self.clip > 0 and self.warmup >= 1
        if not (positive and 0 <= self.momentum < 1 and 0 < self.smoothing <= 1):
            raise ConfigurationError(
                "edit: needs lr, threshold and clip > 0, warmup >= 1, 0 <= momentum < 1 and "
                f"0 < smoothing <= 1, got {self}"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `anchor`, `u` [P], and on all ranks `mu`, `var` of all K workers."""
        del world, model
        return {"anchor": x[0].clone(), "u": x.new_zeros(x.shape[1]), "mu": None, "var": None}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the anchor after an outer step along the weighted differences."""
        anchor, u = state["anchor"], state["u"]
        x.sub_(anchor).neg_()  # anchor - x_k
        norms = _norms(x, world)
        fit = self._fit(norms, state, now)
        x.mul_(_weights(norms, fit, x, world)).nan_to_num_(0.0, 0.0, 0.0)
        delta = world.mean(x)[0]
        if fit.any():
            length = max(1e-30, float(torch.linalg.vector_norm(delta)))
            delta.mul_(min(1.0, self.clip / length))
            nesterov_step(anchor, u, delta, self.lr, self.momentum)
        x[:] = anchor
        return x, {**state, **self._remembered(norms, fit, state)}

    def _fit(self, norms: np.ndarray, state: State, now: Now) -> np.ndarray:
        """Return which workers are not left out, bool [K]."""
        fit: np.ndarray = np.isfinite(norms)
        if state["mu"] is not None and now.s >= self.warmup:
            fit &= norms - state["mu"] <= self.threshold * np.sqrt(state["var"])
        return fit

    def _remembered(self, norms: np.ndarray, fit: np.ndarray, state: State) -> State:
        """Return mu and sigma^2 with those of this round in them."""
        if not fit.any():
            return state
        mu = np.array(state["mu"] or np.where(fit, norms, norms[fit].mean()).tolist())
        var, a = np.array(state["var"] or [0.0] * len(norms)), self.smoothing
        above = np.where(fit, norms - mu, 0.0)
        var = np.where(fit, (1 - a) * (var + a * above**2), var)
        return {"mu": (mu + a * above).tolist(), "var": var.tolist()}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one difference a round, and of its norm in float64."""
        del K, now
        return model.nbytes + 8


def _norms(x: Rows, world: World) -> np.ndarray:
    """Return the lengths of all workers' rows, float64 [K]."""
    mine = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)[:, None]
    return world.gather_bytes(mine.view(torch.uint8)).cpu().numpy().view(np.float64)[:, 0]


def _weights(norms: np.ndarray, fit: np.ndarray, x: Rows, world: World) -> torch.Tensor:
    """Return K w_k of the workers living here, [R, 1]: then a mean over all is the weighted sum."""
    w = np.zeros(len(norms))
    if fit.any():
        w[fit] = np.exp(norms[fit].min() - norms[fit])
        w *= len(w) / w.sum()
    return x.new_tensor(w[list(world.local_workers)])[:, None]
