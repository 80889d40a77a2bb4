"""The decay of a run's Hessian trace, predicted from that of another run.

The Slow SDE says how fast a run moves along the minimisers, not where they lead. So one measured
run gives the way, tr H as a function of the distance gone, and the theory the speed at which any
other run goes it. In a step of rate eta with rounds of h steps, at a place with eigenvalues l_i,

    ds = 2 eta^2 / B  sum_i l_i / (2 - eta l_i) boost(l_i) / tr H
    boost(l) = 1 + (K - 1)(1 - (1 - r^h) / (h (1 - r))),  r = (1 - eta l)^2

(`Regime.boost`, finite form; psi(2 eta h l) in the limit). K, B, eta and h are read from the files,
eta of every step. Where the conditions do not hold there is no prediction, see `conditions`.
Assumed are noise like that of labels, Sigma = c H, diffusion that can be neglected, and eigenvalues
that shrink in proportion; with one curved direction that is exact. Eigenvalues that were not
measured, the rest of the trace, count with boost 1. Momentum beta counts as eta / (1 - beta).

Source: Gu et al., arXiv:2303.01215, the section on label noise regularisation, for drift and boost;
that time alone is changed is our reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.slow_sde.conditions import (
    far_start,
    foreign,
    off_the_minimisers,
    unstable,
)
from hpc_localsgd.analysis.slow_sde.regime import Regime

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Trajectory


@dataclass(frozen=True)
class Way:
    """The path of a run: what was measured at its snapshots, and the distance covered by then.

    Attributes:
        step: [n], ascending.
        trace: [n], tr H.
        eigenvalues: [n, k], the largest.
        gone: [n], distance s from the first of them.
    """

    step: np.ndarray
    trace: np.ndarray
    eigenvalues: np.ndarray
    gone: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The trace of a run as the theory predicts it.

    Attributes:
        step: [n].
        trace: [n]; NaN from where the other run was not followed far enough.
    """

    step: np.ndarray
    trace: np.ndarray


def way(run: Trajectory, sharpness: Trajectory) -> Way:
    """Return the path of a run.

    Args:
        run: Its record.
        sharpness: The file that `python -m hpc_localsgd sharpness` made of it.

    Raises:
        ValueError: Fewer than two snapshots have been measured, or without trace or eigenvalues; or
            the theory is not about this run: what of it, and what is allowed.
    """
    names = {"sharpness/trace", "sharpness/eigenvalues"}
    if missing := names - set(sharpness.names()):
        raise ValueError(f"{sharpness.path} has no {sorted(missing)[0]}: measure it first")
    traces, largest = (sharpness.series(name) for name in sorted(names, reverse=True))
    if why := foreign(run):
        raise ValueError(f"{run.path}: the Slow SDE is of Local SGD, and this run has {why}")
    step, at, of = np.intersect1d(traces.step, largest.step, return_indices=True)
    if len(step) < 2:
        raise ValueError(
            f"{sharpness.path} has {len(step)} snapshot: a path has at least two; train with more "
            "snapshots (--snapshot-every) and measure them"
        )
    trace, values = traces.value[at], largest.value[of]
    _check_way(run, sharpness, step, trace, values)
    places = _Places(step.astype(float), trace, values)
    speeds = _speeds(run, int(step[0]), int(step[-1]), places.at)
    passed = np.concatenate([[0.0], np.cumsum(speeds)])
    gone = passed[(step - step[0]).astype(int)]
    return Way(step, trace, values, gone)


def predict(run: Trajectory, along: Way, step: np.ndarray) -> Prediction:
    """Predict the decay of tr H in a run that takes the same path at its own speed.

    Both must begin at the same place: the first snapshot of the path is where the run is at the
    first of `step`.

    Args:
        run: The record of the run to predict; only its rounds and configuration are read.
        along: The way of another run (parallel SGD, say), or of the same one.
        step: [n], ascending steps of the run.

    Raises:
        ValueError: The theory is not about this run, or not about this way.
    """
    step = np.asarray(step, dtype=int)
    if bad := off_the_minimisers(along.step, along.trace, along.eigenvalues):
        raise ValueError(f"the path that is followed has at step {bad[0]} {bad[1]}")
    places = _Places(along.gone, along.trace, along.eigenvalues)
    s, gone = 0.0, {int(step[0]): 0.0}
    for t, regime in _regimes(run, int(step[0]), int(step[-1])):
        s += _speed(run, t, regime, *places.at(s))
        gone[t + 1] = s
    found = np.array([gone[int(t)] for t in step])
    trace = np.interp(found, along.gone, along.trace)
    return Prediction(step, np.where(found <= along.gone[-1], trace, np.nan))


def speed(regime: Regime, trace: float, eigenvalues: np.ndarray) -> float:
    """Return the distance covered in a step: see the module.

    Args:
        regime: K, B, eta and H.
        trace: tr H at the place.
        eigenvalues: [k], the largest there; those below 0 are not of a minimiser and left out.
    """
    curved = eigenvalues[np.isfinite(eigenvalues) & (eigenvalues > 0)]
    damped = 2 - np.minimum(regime.lr * curved, 1.9)
    weight = curved / damped * regime.boost(curved * (2 - regime.lr * curved))
    rest = max(float(trace - curved.sum()), 0.0) / 2
    return float(2 * regime.lr**2 / regime.batch * (weight.sum() + rest) / trace)


@dataclass(frozen=True)
class _Places:
    """Trace and eigenvalues between the snapshots where they were measured, linearly."""

    where: np.ndarray
    trace: np.ndarray
    eigenvalues: np.ndarray

    def at(self, s: float) -> tuple[float, np.ndarray]:
        i = int(np.clip(np.searchsorted(self.where, s, "right") - 1, 0, len(self.where) - 2))
        width = self.where[i + 1] - self.where[i]
        f = float(np.clip((s - self.where[i]) / width, 0.0, 1.0)) if width > 0 else 0.0
        trace = (1 - f) * self.trace[i] + f * self.trace[i + 1]
        return float(trace), (1 - f) * self.eigenvalues[i] + f * self.eigenvalues[i + 1]


def _speeds(
    run: Trajectory, first: int, last: int, at: Callable[[float], tuple[float, np.ndarray]]
) -> np.ndarray:
    """Return the distance of every step first <= t < last, from the places `at` those steps."""
    return np.array([_speed(run, t, regime, *at(t)) for t, regime in _regimes(run, first, last)])


def _speed(
    run: Trajectory, t: int, regime: Regime | None, trace: float, eigenvalues: np.ndarray
) -> float:
    if regime is None:
        return 0.0
    if why := unstable(regime.lr, float(np.nanmax(eigenvalues))):
        raise ValueError(f"{run.path}: at step {t} {why}: there is no balance to predict")
    return speed(regime, trace, eigenvalues)


def _check_way(
    run: Trajectory,
    sharpness: Trajectory,
    step: np.ndarray,
    trace: np.ndarray,
    eigenvalues: np.ndarray,
) -> None:
    """Raise ValueError if the snapshots are not near minimisers."""
    if bad := off_the_minimisers(step, trace, eigenvalues):
        raise ValueError(f"{sharpness.path} has at step {bad[0]} {bad[1]}")
    if "sharpness/loss" not in sharpness.names():
        return
    known = sharpness.series("sharpness/loss")
    both, at, of = np.intersect1d(step, known.step, return_indices=True)
    if len(both) < 2 or both[0] != step[0]:
        return
    rates = np.array([lr for _, lr, _ in _steps(run, int(both[0]), int(both[-1]))])
    lr = rates[np.minimum(both - both[0], len(rates) - 1)]
    lr[0] = rates[: int(both[1] - both[0])].max()
    if why := far_start(known.value[of], lr, trace[at]):
        raise ValueError(f"{sharpness.path} at step {both[0]}: {why}")


def _regimes(run: Trajectory, first: int, last: int) -> Iterator[tuple[int, Regime | None]]:
    """Yield every step first <= t < last with its regime; None where the learning rate is 0.

    Raises:
        ValueError: The theory is not about this run, or the record's rounds do not reach from first
            to last.
    """
    if why := foreign(run):
        raise ValueError(f"{run.path}: the Slow SDE is of Local SGD, and this run has {why}")
    faster = 1 / (1 - _momentum(run))
    batch = int(run.config["batch_per_worker"]) * run.K
    for t, lr, H in _steps(run, first, last):
        yield t, Regime(run.K, batch, lr * faster, H, finite=True) if lr else None


def _steps(run: Trajectory, first: int, last: int) -> Iterator[tuple[int, float, int]]:
    """Yield every step first <= t < last, its learning rate and the H of its round.

    Raises:
        ValueError: The record's rounds do not reach from first to last.
    """
    rounds = run.rounds
    reach = [int(rounds.step_begin[0]), int(rounds.step_end[-1])] if len(rounds.lr) else [0, 0]
    if first < reach[0] or last > reach[1]:
        raise ValueError(
            f"{run.path} has rounds of steps {reach[0]} to {reach[1]}, not of {first} to {last}: "
            "the run was killed before its last rounds were written, or is another one"
        )
    rate = rate_of(run)  # where it is not known, that of the round's first step holds for all
    for begin, end, lr, H in zip(
        rounds.step_begin, rounds.step_end, rounds.lr, rounds.local_steps, strict=True
    ):
        for t in range(max(int(begin), first), min(int(end), last)):
            yield t, float(lr) if rate is None else rate(t), int(H)


def _momentum(run: Trajectory) -> float:
    """Return the momentum of the recorded optimiser; 0 where it has none."""
    made = (run.config.get("optimizer") or {}).get("init_args") or {}
    return float(made.get("momentum") or 0.0)
