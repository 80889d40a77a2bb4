"""Learning rate and H along a run, as far as they are known.

The record has the rate of each round's first step, and the configuration that of every step: the
line is the latter, where both agree. Where the configuration does not tell (a rate of the user's
own) there are dots at what was recorded and no line. H is one number for the whole of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.planned import rate_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hpc_localsgd.trajectory import Trajectory

MANY = 1400  # points of a line: two for a pixel


def rate_line(rate: Callable[[int], float], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rate at every step, or at as many as a page can show: ``[n]``, ``[n]``.

    Args:
        rate: Of a step.
        steps: How many steps there are, at least 1.
    """
    step = np.unique(np.linspace(0, steps - 1, min(steps, MANY)).round().astype(int))
    return step, np.array([rate(int(t)) for t in step])


def draw_rate(axes: Axes, run: Trajectory) -> None:
    """Draw the learning rate of every step, in a strip.

    Args:
        axes: The panel.
        run: The run.
    """
    rounds = run.rounds
    fine = np.isfinite(rounds.lr)
    _title(axes, "learning rate")
    if not fine.any():
        style.note(axes, "not recorded")
        return
    rate = rate_of(run)
    if rate is not None:
        step, lr = rate_line(rate, int(rounds.step_end[-1]))
        axes.plot(step, lr, color=style.INK, linewidth=1.2, drawstyle="steps-post")
        keep(axes, "every step", step, lr)
    else:
        lr = rounds.lr[fine]
        axes.plot(rounds.step_begin[fine], lr, ".", color=style.INK, markersize=2.5)
        keep(axes, "first step of a round", rounds.step_begin[fine], lr)
        _title(axes, "learning rate of each round's first step")
    _ticks(axes, lr, 10)


def draw_H(axes: Axes, run: Trajectory) -> None:
    """Draw H of every round, in a strip; blank where no round was recorded.

    Args:
        axes: The panel.
        run: The run.
    """
    _title(axes, "H, local steps a round")
    if not len(run.rounds):
        style.note(axes, "not recorded")
        return
    H = run.rounds.local_steps.astype(float)
    stairs(axes, run.rounds.step_begin, run.rounds.step_end, H, color=style.INK, linewidth=1.2)
    keep(axes, "round that begins here", run.rounds.step_begin, H)
    _ticks(axes, H, 2)


def stairs(axes: Axes, begins: np.ndarray, ends: np.ndarray, y: np.ndarray, **look: Any) -> None:
    """Draw one level a round; nothing where a round is missing, no line to a last one cut short.

    Args:
        axes: The panel.
        begins: ``[S]`` first step of each round.
        ends: ``[S]`` step at which it ends.
        y: ``[S]``.
        look: Of the line.
    """
    missing = 1 + np.flatnonzero(begins[1:] != ends[:-1])
    if len(y) > 1 and y[-1] < y[-2] and ends[-1] - begins[-1] == y[-1]:
        # The end of the run has cut the last round: no fall of H, and no line down to it.
        missing = np.union1d(missing, len(y) - 1)
    level = np.insert(y.astype(float), missing, np.nan)
    edges = np.insert(begins, missing, ends[missing - 1])
    keep = curves.changes(level)  # a constant H is two points, not a hundred thousand
    axes.stairs(level[keep], np.append(edges[keep], ends[-1]), baseline=None, **look)


def _title(axes: Axes, name: str) -> None:
    axes.set_title(name, loc="left", fontsize=8, color=style.GREY, pad=3)


def _ticks(axes: Axes, y: np.ndarray, base: int) -> None:
    low, high = float(np.nanmin(y)), float(np.nanmax(y))
    if low > 0 and high >= 8 * low:
        axes.set_yscale("log", base=base)
    axes.set_yticks(sorted({low, high}), [f"{v:.3g}" for v in sorted({low, high})])
    axes.minorticks_off()
    axes.margins(y=0.25)
