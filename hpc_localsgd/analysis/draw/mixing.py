"""Who mixes with whom, and how much of the spread a mix leaves: measured beside the theory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.draw.spread import BEFORE, measured
from hpc_localsgd.analysis.draw.topology import draw_topology
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.topology import Topology

MIXES = 16  # of a topology that changes, whose theory is averaged


def draw_mixing(run: Trajectory, topology: Topology) -> Figure | None:
    """Draw the graph, and what each mix left of the spread; return None if that was not measured.

    Args:
        run: The run.
        topology: Whose matrices its exchanges are.
    """
    found = left_over(run)
    if found is None:
        return None
    step, left = found
    figure = style.sheet(9.6, 3.7, "Mixing", run)
    margins = style.frame(figure, 0.62, 1.9, 1.1, 0.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 2.2), wspace=0.28, **margins)
    graph, course = (figure.add_subplot(grid[0, i]) for i in range(2))
    draw_topology(graph, topology, run.K)
    _draw_left(course, step, left, topology, run.K)
    style.step_axis(course, int(step[-1]))
    return figure


def left_over(run: Trajectory) -> tuple[np.ndarray, np.ndarray] | None:
    """Return steps, and spread after the exchange over spread before it; None if not measured.

    Args:
        run: The run.
    """
    after, before = (measured(run, name) for name in ("spread", BEFORE))
    if after is None or before is None:
        return None
    step, i, j = np.intersect1d(after.step, before.step, return_indices=True)
    return (step, after.value[i] / before.value[j]) if len(step) else None


def _draw_left(axes: Axes, step: np.ndarray, left: np.ndarray, topology: Topology, K: int) -> None:
    from hpc_localsgd.topology import contraction  # with networkx

    axes.scatter(step, left, s=9, color=style.BLUE, linewidth=0, zorder=3)
    keep(axes, "measured", step, left)
    mixes = range(min(topology.period(K) or MIXES, MIXES))
    theory = np.array([contraction(topology.matrix(K, k)) for k in mixes])
    expected, most = float(theory[:, 0].mean()), float(theory[:, 1].max())
    lines: list[tuple[float, str, str]] = [
        (expected, "expected if workers\nare unrelated", style.OCHRE),
        (most, "the most a mix\ncan leave", style.RED),
    ]
    for value, name, colour in lines:
        look: dict[str, Any] = {"color": colour, "linewidth": 1.0, "zorder": 1}
        axes.axhline(value, **look)
        keep(axes, " ".join(name.split()), step[[0, -1]], [value, value])
    axes.set_ylim(0, 1.12 * max(float(left.max()), most, 0.05))
    style.title(axes, "spread after a mix, over that before it")
    end_labels(axes, [*lines, (float(np.median(left[-len(left) // 4 :])), "measured", style.BLUE)])
