"""What the prediction asks of a run, and what is said of one that does not have it.

A curve from a theory whose conditions do not hold is a number that was not measured and nothing
predicts, so there is none: each function says in half a sentence what was found and what is
allowed, or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Trajectory

# Parts of a run's configuration -> the classes that the theory is about.
KNOWN = {"algorithm": ("LocalSGD", "AllReduce"), "optimizer": ("SGD",), "gradient": ("plain",)}
# Tasks whose samples are drawn again, whatever `sampling` says.
ENDLESS = ("diagonal_net", "manifold", "quadratic")
FALL = 4.0
"""How many times the loss may fall from the first snapshot to the later ones beyond what the
learning rate and the trace explain: near minimisers it is of their size."""

NEGATIVE = 0.1
"""Share of the trace by which the positive eigenvalues may exceed it: estimates have errors."""


def foreign(run: Trajectory) -> str:
    """Name what of a run the theory does not cover, "the algorithm Gossip"; "" if it covers all.

    Args:
        run: The record; only its configuration is read.
    """
    if len(set(run.workers)) > 1:
        return "other workers than it began with"
    for part, known in KNOWN.items():
        name = _class_of(run.config.get(part), known[0])
        if name not in known:
            return f"the {part} {name}"
        if _arguments(run.config.get(part)).get("compressor"):
            return "a compressor"
    decay = float(_arguments(run.config.get("optimizer")).get("weight_decay") or 0.0)
    if decay > 0:
        return f"a weight decay of {decay:g}, where 0 is allowed: it moves the minimisers"
    drawn = run.config.get("sampling", "replacement")
    if drawn != "replacement" and _class_of(run.config.get("task"), "") not in ENDLESS:
        return (
            f"--sampling {drawn}, where replacement is allowed: samples without replacement have "
            "noise that cancels within an epoch"
        )
    return ""


def off_the_minimisers(
    step: np.ndarray, trace: np.ndarray, eigenvalues: np.ndarray
) -> tuple[int, str] | None:
    """Return the first snapshot whose curvature shows that it is not a minimiser, and why.

    Args:
        step: ``[n]`` of the snapshots.
        trace: ``[n]`` tr H.
        eigenvalues: ``[n, k]``, the largest.
    """
    for t, whole, values in zip(step.tolist(), trace.tolist(), eigenvalues, strict=True):
        if not np.isfinite(whole) or whole <= 0:
            return t, f"a trace of {whole:.4g}, where it is positive at a minimiser"
        positive = float(values[np.isfinite(values) & (values > 0)].sum())
        if positive > (1 + NEGATIVE) * whole:
            most = (1 + NEGATIVE) * whole
            return t, (
                f"positive eigenvalues that sum to {positive:.4g}, where {most:.4g} is allowed "
                f"with its trace of {whole:.4g}: the others are negative"
            )
    return None


def far_start(loss: np.ndarray, lr: np.ndarray, trace: np.ndarray) -> str:
    """Say that a run begins away from the minimisers, its loss falling fast; "" if it does not.

    Near minimisers the loss is what it is on them, or proportional to lr tr H where that is 0.

    Args:
        loss: ``[n]`` of the mean model at the snapshots, at least two.
        lr: ``[n]`` learning rates there, the first the largest on the way to the second.
        trace: ``[n]`` tr H.
    """
    fine = np.isfinite(loss) & (loss > 0) & (lr > 0)
    if not fine[0] or not fine[1:].any():
        return ""
    later = np.flatnonzero(fine[1:]) + 1
    explained = np.maximum(1.0, lr[0] * trace[0] / (lr[later] * trace[later]))
    fall = float(loss[0] / np.median(loss[later] * explained))
    if fall <= FALL:
        return ""
    return (
        f"its loss is {loss[0]:.4g} there and falls {fall:.3g} times further than the learning "
        f"rate and the trace explain, where {FALL:g} is allowed: it begins off the minimisers; "
        "take a later first snapshot"
    )


def unstable(lr: float, eigenvalue: float) -> str:
    """Say that steps are too large for a balance around the minimisers; "" if they are not.

    Args:
        lr: Learning rate, divided by 1 - momentum.
        eigenvalue: The largest of the Hessian.
    """
    if not lr * eigenvalue >= 2:
        return ""
    return (
        f"learning rate x curvature is {lr * eigenvalue:.3g} (lr / (1 - momentum) {lr:.3g}, largest"
        f" eigenvalue {eigenvalue:.4g}), where less than 2 is allowed"
    )


def gain(run: Trajectory) -> float:
    """Return by how much momentum makes the learning rate larger, (1 - dampening) / (1 - momentum).

    Args:
        run: The record; only its configuration is read.
    """
    made = _arguments(run.config.get("optimizer"))
    momentum, dampening = (float(made.get(name) or 0.0) for name in ("momentum", "dampening"))
    return (1 - dampening) / (1 - momentum) if momentum else 1.0


def _class_of(said: Any, default: str) -> str:
    path = said.get("class_path") if isinstance(said, dict) else said
    return str(path or default).rpartition(".")[2]


def _arguments(said: Any) -> dict[str, Any]:
    return (said.get("init_args") or {}) if isinstance(said, dict) else {}
