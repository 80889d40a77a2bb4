"""A run before it starts: its rate, its rounds, and what its exchanges will cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.draw.rate import rate_line, stairs
from hpc_localsgd.analysis.draw.topology import draw_topology
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.cost.preview import Preview
from hpc_localsgd.topology import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_preview(
    plan: Preview,
    rate: Callable[[int], float],
    facts: Sequence[str],
    network: str,
    topology: Topology | None = None,
    K: int = 1,
) -> Figure:
    """Draw rate and H at every step, bytes and seconds so far; parallel SGD beside them.

    Bytes and seconds are known where H changes; rounds of one length are alike, so a straight line
    joins these points.

    Args:
        plan: The plan.
        rate: Learning rate of a step.
        facts: What there is to say about the run, each a few words.
        network: What the seconds are predicted for.
        topology: Of the workers, if the algorithm has one.
        K: Workers.
    """
    figure = style.titled_sheet(9.6, 5.6, "Plan of a run", facts)
    margins = style.frame(figure, 0.75, 1.0, 1.15, 0.55)
    widths = (1, 1) if topology is None else (1, 1, 0.9)
    spaces: dict[str, Any] = {**margins, "wspace": 0.42, "hspace": 0.32}
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, **spaces)
    panels = np.array([[figure.add_subplot(grid[i, j]) for j in range(2)] for i in range(2)])
    _draw_rate(panels[0, 0], plan, rate)
    _draw_H(panels[1, 0], plan)
    _draw_cost(panels[0, 1], plan, "bytes", "sent by a worker so far")
    _draw_cost(panels[1, 1], plan, "seconds", f"in exchanges, predicted ({network})")
    if topology is not None:
        draw_topology(figure.add_subplot(grid[:, 2]), topology, K)
    for axes in panels.flat:
        style.step_axis(axes, plan.steps)
        axes.set_xlabel("global step" if axes in panels[1] else "")
    return figure


def _draw_rate(axes: Axes, plan: Preview, rate: Callable[[int], float]) -> None:
    step, lr = rate_line(rate, plan.steps)
    axes.plot(step, lr, color=style.INK, linewidth=1.3, drawstyle="steps-post")
    keep(axes, "learning rate", step, lr)
    style.title(axes, "learning rate")
    axes.set_ylim(bottom=0)


def _draw_H(axes: Axes, plan: Preview) -> None:
    """Draw H of the rounds: a level for each stretch of rounds of one length."""
    begins, ends, H = (np.array([getattr(s, of) for s in plan.stretches]) for of in _EDGES)
    stairs(axes, begins, ends, H, color=style.INK, linewidth=1.3)
    keep(axes, "rounds from this step on", begins, H)
    style.title(axes, "H, local steps a round")
    if H.min() > 0 and H.max() >= 8 * H.min():
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.margins(y=0.12)
    else:
        axes.set_ylim(0, 1.15 * H.max())


def _draw_cost(axes: Axes, plan: Preview, of: str, words: str) -> None:
    """Draw the bytes or seconds so far, and those of one exchange a step."""
    spent = "payload_bytes" if of == "bytes" else "exchange_s"
    total = plan.parallel_bytes if of == "bytes" else plan.parallel_s
    ends = np.array([0, *(stretch.end for stretch in plan.stretches)])
    so_far = np.cumsum([0.0, *(getattr(stretch, spent) for stretch in plan.stretches)])
    if not math.isfinite(so_far[-1]):
        style.note(axes, "no network to predict them for")
        return
    most = max(float(so_far[-1]), total if math.isfinite(total) else 0.0)
    size, unit = (style.byte_unit if of == "bytes" else style.time_unit)(most)
    axes.plot([0, plan.steps], [0, total], color=style.YELLOW, linewidth=1.3)
    axes.plot(ends, so_far, color=style.BLUE, linewidth=1.6)
    keep(axes, "parallel SGD", [0, plan.steps], [0, total], names=("global step", of))
    keep(axes, "this run", ends, so_far, names=("global step", of))
    style.title(axes, f"{unit} {words}")
    axes.set_ylim(0, 1.08 * most or 1)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y / size:g}")
    ends_at = [(float(so_far[-1]), "this run", style.BLUE), (total, "parallel\nSGD", style.OCHRE)]
    end_labels(axes, ends_at)


_EDGES = ("begin", "end", "H")
