"""The plan of a run beside what happened: learning rate, H, and the rounds so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.draw.rate import rate_line, stairs
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.planned import Planned, Unplannable, planned
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_plan(run: Trajectory) -> Figure:
    """Draw the plan as a pale broad line and what happened as a dark thin one on it.

    Args:
        run: The run.
    """
    try:
        plan: Planned | None = planned(run)
    except Unplannable:
        plan = None
    figure = style.sheet(9.6, 3.6, "Plan and what happened", run)
    margins = style.frame(figure, 0.75, 0.35, 1.1, 0.55)
    grid: dict[str, Any] = {**margins, "wspace": 0.2}
    panels = figure.subplots(1, 3, gridspec_kw=grid)
    done = int(run.rounds.step_end[-1]) if len(run.rounds) else 0
    last = max(done, plan.steps if plan else 0)
    _draw_rates(panels[0], run, plan)
    _draw_lengths(panels[1], run, plan)
    _draw_count(panels[2], run, plan)
    for axes in panels:
        style.step_axis(axes, last)
        if plan and done < plan.steps:
            axes.axvspan(done, plan.steps, color=style.PALE, alpha=0.5, linewidth=0, zorder=0)
    if plan is not None:
        _explain(figure)
    return figure


def _draw_rates(axes: Axes, run: Trajectory, plan: Planned | None) -> None:
    """Draw the planned rate of every step, and the recorded one of each round's first step."""
    style.title(axes, "learning rate")
    shown = [run.rounds.lr]
    if plan is not None:
        step, lr = rate_line(plan.rate, plan.steps)
        axes.plot(step, lr, color=style.YELLOW, alpha=0.45, linewidth=5, drawstyle="steps-post")
        keep(axes, "planned", step, lr)
        shown.append(lr)
    kept = curves.changes(run.rounds.lr) if len(run.rounds) else np.empty(0, int)
    axes.plot(run.rounds.step_begin[kept], run.rounds.lr[kept], ".", color=style.INK, markersize=2)
    keep(axes, "happened", run.rounds.step_begin, run.rounds.lr)
    _scale(axes, shown, 10)


def _draw_lengths(axes: Axes, run: Trajectory, plan: Planned | None) -> None:
    """Draw H of every round, planned and recorded."""
    style.title(axes, "H, local steps a round")
    ours, shown = run.rounds, [run.rounds.local_steps]
    if plan is not None:
        look: dict[str, Any] = {"color": style.YELLOW, "alpha": 0.45, "linewidth": 5}
        stairs(axes, plan.begins, plan.ends, plan.local_steps, **look)
        keep(axes, "planned", plan.begins, plan.local_steps)
        shown.append(plan.local_steps)
    if len(ours):
        stairs(
            axes, ours.step_begin, ours.step_end, ours.local_steps, color=style.INK, linewidth=1.1
        )
    keep(axes, "happened", ours.step_begin, ours.local_steps)
    _scale(axes, shown, 2)


def _scale(axes: Axes, values: list[np.ndarray], base: int) -> None:
    from matplotlib.ticker import FuncFormatter

    every = np.concatenate([np.asarray(v, dtype=float) for v in values] or [np.empty(0)])
    every = every[np.isfinite(every)]
    if not len(every):
        style.note(axes, "no round yet")
        return
    if base == 2 and every.min() > 0 and every.max() >= 8 * every.min():
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.minorticks_off()
    else:
        axes.set_ylim(0, 1.1 * every.max() or 1)
    axes.margins(y=0.12)


def _draw_count(axes: Axes, run: Trajectory, plan: Planned | None) -> None:
    """Draw the number of rounds so far; parallel SGD would have one a step."""
    style.title(axes, "rounds so far")
    if plan is not None:
        _count(axes, "planned", plan.ends, color=style.YELLOW, alpha=0.45, linewidth=5)
    if len(run.rounds):
        _count(axes, "happened", run.rounds.step_end, color=style.INK, linewidth=1.1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _count(axes: Axes, line: str, ends: np.ndarray, **look: Any) -> None:
    keep(axes, line, ends, np.arange(1, len(ends) + 1))
    shown = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 600)).astype(int))
    axes.plot(np.append(0, ends[shown]), np.append(0, shown + 1), drawstyle="steps-post", **look)


def _explain(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    looks: list[dict[str, Any]] = [
        {"color": style.YELLOW, "alpha": 0.45, "linewidth": 5, "label": "planned"},
        {"color": style.INK, "linewidth": 1.1, "label": "happened"},
    ]
    width, height = figure.get_size_inches()
    at: dict[str, Any] = {
        "loc": "upper right",
        "bbox_to_anchor": (1 - 0.35 / width, 1 - 0.62 / height),
    }
    handles = [Line2D([], [], **look) for look in looks]
    figure.legend(handles=handles, ncols=2, frameon=False, fontsize=8.5, borderpad=0, **at)
