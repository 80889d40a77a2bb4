"""The spread of the workers, round by round, above the learning rate and H that drive it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEETH = 160  # rounds up to which each can be seen on the page
_ZOOM = 12  # rounds shown beside it when there are more


def draw_spread(run: Trajectory) -> Figure:
    """Spread, learning rate and H against steps, and the last rounds enlarged when there are many.

    Args:
        run: The run.
    """
    spread = curves.series_or_none(run, "spread")
    zoomed = spread is not None and _worth_a_zoom(run, spread)
    figure = style.sheet(9.6, 5.4, "Spread of the workers", run)
    margins = style.frame(figure, 0.9, 0.35, 0.95, 0.55)
    widths, gap = ((3.1, 1), 0.16) if zoomed else ((1,), 0)
    ratios: dict[str, Any] = {"height_ratios": (5, 1, 1), "width_ratios": widths}
    grid = figure.add_gridspec(3, len(widths), hspace=0.4, wspace=gap, **margins, **ratios)
    top, rate, local = (figure.add_subplot(grid[row, 0]) for row in range(3))
    last = int(run.rounds.step_end[-1]) if len(run.rounds) else 1
    _draw_main(top, run, spread)
    _draw_strip(rate, run, run.rounds.lr, "learning rate", 10)
    _draw_strip(local, run, run.rounds.local_steps.astype(float), "H, local steps a round", 2)
    for axes in (top, rate, local):
        style.step_axis(axes, last, label=axes is local)
    if zoomed and spread is not None:
        _draw_zoom(figure.add_subplot(grid[0, 1]), run, spread)
    return figure


def _worth_a_zoom(run: Trajectory, spread: Series) -> bool:
    """Whether there are teeth, too many to be seen; a spread of 0 everywhere has none."""
    return spread.value.max() > 0 and _meet(run, spread) and _local_rounds(run) > _TEETH


def _draw_main(axes: Axes, run: Trajectory, spread: Series | None) -> None:
    if spread is None or not spread.value.max() > 0:
        style.note(axes, _why_none(run, spread))
        return
    log = _scale(axes, spread)
    if _meet(run, spread) and _local_rounds(run) <= _TEETH:
        _draw_teeth(axes, run, spread, log)
        _draw_exchanges(axes, run)
    else:
        _draw_course(axes, spread, log)
    if _meet(run, spread):
        _explain_nothing(axes, run)
    axes.set_ylabel("mean squared distance\nfrom the mean model")


def _why_none(run: Trajectory, spread: Series | None) -> str:
    if run.K == 1:
        return "one worker has no spread"
    return "no spread recorded" if spread is None else "no spread: the workers stayed together"


def _scale(axes: Axes, spread: Series) -> bool:
    """Logarithmic when the spread changes by orders of magnitude; True if so."""
    positive = spread.value[spread.value > _noise(spread)]
    low, high = np.quantile(positive, [0.05, 1.0])
    if high < 40 * low:
        axes.set_ylim(0, 1.08 * high)
        return False
    axes.set_yscale("log")
    axes.set_ylim(low / 4, 2 * high)
    return True


def _noise(spread: Series) -> float:
    """Below this the workers agree but for rounding, as they do in rounds of one step."""
    return 1e-9 * float(spread.value.max())


def _meet(run: Trajectory, spread: Series) -> bool:
    """Whether an exchange brings all workers together, so that a round rises from nothing.

    Gossip does not, and shows it by a spread even in rounds of one step.
    """
    single = run.rounds.step_end[run.rounds.local_steps == 1]
    return not (spread.value[np.isin(spread.step, single)] > _noise(spread)).any()


def _draw_teeth(axes: Axes, run: Trajectory, spread: Series, log: bool) -> None:
    """Each round rises from nothing to its measured end; the way there is drawn, not measured."""
    floor = axes.get_ylim()[0]
    parts = 12 if log else 2
    for begin, end, value in _teeth(run, spread):
        x = np.linspace(begin, end, parts)
        y = np.maximum(value * np.linspace(0, 1, parts), floor)
        axes.fill_between(x, floor, y, color=style.BLUE, alpha=0.16, linewidth=0)
        axes.plot(x, y, color=style.BLUE, linewidth=1.0, alpha=0.6)
        axes.plot([end, end], [value, floor], color=style.BLUE, linewidth=0.5, alpha=0.45)
    fine = spread.value > _noise(spread)
    size = 14 if fine.sum() < 60 else 6
    dots = axes.scatter(spread.step[fine], spread.value[fine], s=size, color=style.BLUE, zorder=4)
    style.clip_sideways(axes, [dots])


def _teeth(run: Trajectory, spread: Series) -> list[tuple[int, int, float]]:
    """(step_begin, step_end, spread) of each round of more than one step that has a spread."""
    rounds = run.rounds
    at = np.searchsorted(rounds.step_end, spread.step)
    known = at < len(rounds)
    at, step, value = at[known], spread.step[known], spread.value[known]
    ended = (rounds.step_end[at] == step) & (rounds.local_steps[at] > 1)
    begins = rounds.step_begin[at[ended]]
    return list(zip(begins.tolist(), step[ended].tolist(), value[ended].tolist(), strict=True))


def _draw_course(axes: Axes, spread: Series, log: bool) -> None:
    shown = spread.value > _noise(spread) if log else np.ones(len(spread), bool)
    curve = curves.thinned(spread.step[shown].astype(float), spread.value[shown], 300)
    band: dict[str, Any] = {"color": style.BLUE, "alpha": 0.18, "linewidth": 0}
    axes.fill_between(curve.x, curve.low, curve.high, **band)
    axes.plot(curve.x, curve.y, color=style.BLUE, linewidth=1.3)


def _draw_exchanges(axes: Axes, run: Trajectory) -> None:
    """A tick below the axis for every exchange, as dense as they were."""
    ends = run.rounds.step_end
    shown = np.unique(np.round(ends / max(1, ends[-1]) * 1400)) * ends[-1] / 1400
    low, high = (-0.035, -0.012)
    below: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.vlines(shown, low, high, color=style.GREY, linewidth=0.5, **below)
    at: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
    axes.text(1, 1, "each tick an exchange", color=style.GREY, fontsize=8, **at)


def _explain_nothing(axes: Axes, run: Trajectory) -> None:
    """Where rounds of one step leave a wide gap, says why there is nothing to see."""
    switch = curves.first_local_step(run)
    if switch is not None and switch > 0.12 * run.rounds.step_end[-1]:
        why = "H = 1:\nthe workers\nstay together"
        at: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linespacing": 1.4}
        axes.text(switch / 2, 0.5, why, color=style.GREY, fontsize=8, ha="center", **at)


def _draw_zoom(axes: Axes, run: Trajectory, spread: Series) -> None:
    from matplotlib.ticker import MaxNLocator

    teeth = _teeth(run, spread)[-_ZOOM:]
    if not teeth:
        style.note(axes, "no round to enlarge")
        return
    shown = np.isin(spread.step, [end for _, end, _ in teeth])
    part = Series(spread.step[shown], spread.value[shown], "", (), "", "")
    axes.set_ylim(0, 1.15 * part.value.max() or 1.0)  # the last rounds alone may have none
    _draw_teeth(axes, run, part, log=False)
    axes.set_xlim(teeth[0][0], teeth[-1][1])
    axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=style.GREY, ha="right")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(f"the last {len(teeth)} rounds", fontsize=8, color=style.GREY, loc="center")
    axes.set_xlabel("global step")


def _draw_strip(axes: Axes, run: Trajectory, y: np.ndarray, name: str, base: int) -> None:
    axes.set_title(name, loc="left", fontsize=8, color=style.GREY, pad=3)
    fine = np.isfinite(y)
    if not fine.any():
        style.note(axes, "not recorded")
        return
    edges = np.append(run.rounds.step_begin, run.rounds.step_end[-1:])
    keep = curves.changes(y)  # a constant H is two points, not a hundred thousand
    places = np.append(edges[:-1][keep], edges[-1])
    axes.stairs(y[keep], places, baseline=None, color=style.INK, linewidth=1.2)
    low, high = y[fine].min(), y[fine].max()
    if low > 0 and high >= 8 * low:
        axes.set_yscale("log", base=base)
    axes.set_yticks(sorted({low, high}), [f"{v:.3g}" for v in sorted({low, high})])
    axes.minorticks_off()
    axes.margins(y=0.25)


def _local_rounds(run: Trajectory) -> int:
    return int((run.rounds.local_steps > 1).sum())
