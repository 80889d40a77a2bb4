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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis.slow_sde.conditions import far_start, foreign, off_the_minimisers
from hpc_localsgd.analysis.slow_sde.speed import Places, followed, passed, rates_of, steps_of

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
    places = Places(step.astype(float), trace, values)
    steps = steps_of(run, int(step[0]), int(step[-1]))
    gone = passed(steps, places)[step - step[0]]
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
    places = Places(along.gone, along.trace, along.eigenvalues)
    found = followed(steps_of(run, int(step[0]), int(step[-1])), places)[step - step[0]]
    trace = np.interp(found, along.gone, along.trace)
    return Prediction(step, np.where(found <= along.gone[-1], trace, np.nan))


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
    rates = rates_of(run, int(both[0]), int(both[-1]))[0]
    lr = rates[np.minimum(both - both[0], len(rates) - 1)]
    lr[0] = rates[: int(both[1] - both[0])].max()
    if why := far_start(known.value[of], lr, trace[at]):
        raise ValueError(f"{sharpness.path} at step {both[0]}: {why}")
