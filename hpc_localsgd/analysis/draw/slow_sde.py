"""The decay of tr H in several runs, and what the Slow SDE makes of it, knowing one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.slow_sde import Prediction, Way, predict, way

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

COLOURS = (style.RED, style.BLUE, style.OCHRE, style.GREY)
ALIKE = 0.05  # relative difference of the first traces, up to which runs began at one place


@dataclass(frozen=True)
class Measured:
    """A run whose sharpness was measured at its snapshots."""

    name: str
    run: Trajectory
    way: Way

    def began_with(self, other: Measured) -> bool:
        """Return whether both had the same parameters of the same task at the same step."""
        a, b = self.way, other.way
        ours, theirs = ((m.run.attrs["task"], m.run.P) for m in (self, other))
        near = bool(np.isclose(a.trace[0], b.trace[0], rtol=ALIKE))
        return ours == theirs and a.step[0] == b.step[0] and near


def measured(runs: Sequence[tuple[str, Trajectory, Trajectory | None]]) -> list[Measured]:
    """Return the runs with a measured path, the one that went furthest first.

    Args:
        runs: Name, record, and what `python -m hpc_localsgd sharpness` found, of each.
    """
    found = [tried(*run) for run in runs]
    ways = [m for m in found if isinstance(m, Measured)]
    return sorted(ways, key=lambda m: -m.way.gone[-1])


def tried(name: str, run: Trajectory, sharpness: Trajectory | None) -> Measured | str:
    """Return a run with its path; or why it has none ("" where its sharpness was not measured).

    Args:
        name: Of the run.
        run: Its record.
        sharpness: What `python -m hpc_localsgd sharpness` found.
    """
    if sharpness is None:
        return ""
    try:
        return Measured(name, run, way(run, sharpness))
    except (ValueError, KeyError) as error:  # not enough was measured, or it is of other runs
        return str(error)


def told(m: Measured, first: Measured) -> Prediction | str:
    """Predict a run on the path of another by the theory; or return why the theory does not apply.

    Args:
        m: The run.
        first: The run whose way it is.
    """
    try:
        return predict(m.run, first.way, m.way.step)
    except ValueError as error:
        return str(error)


def overlaid(found: Sequence[Measured]) -> list[Measured]:
    """Return the runs comparable with the first, which gives the path; the first included.

    Args:
        found: From `measured`.
    """
    alike = [m for m in found if m.began_with(found[0])]
    return [m for m in alike if isinstance(told(m, found[0]), Prediction)][: len(COLOURS)]


def draw_slow_sde(found: Sequence[Measured]) -> Figure | None:
    """Draw measured traces as dots and predictions as lines; None unless two runs began alike.

    Args:
        found: From `measured`. The first gives the way; the others are predicted from it.
    """
    alike = overlaid(found)
    if len(alike) < 2:
        return None
    facts = [f"the path is that of {alike[0].name}", "K, H and the learning rates from the files"]
    figure = style.titled_sheet(9.6, 3.8, "Trace of the Hessian and the Slow SDE", facts)
    axes = figure.add_subplot()
    figure.subplots_adjust(**style.frame(figure, 0.75, 1.4, 1.0, 0.6))
    for colour, m in zip(COLOURS, alike, strict=False):
        _draw_one(axes, m, alike[0], colour)
    style.step_axis(axes, max(int(m.way.step[-1]) for m in alike))
    axes.set_ylabel("tr H")
    axes.set_ylim(bottom=0)
    ends = [(float(m.way.trace[-1]), m.name, c) for m, c in zip(alike, COLOURS, strict=False)]
    end_labels(axes, ends)
    return figure


def _draw_one(axes: Axes, m: Measured, first: Measured, colour: str) -> None:
    dots = axes.plot(m.way.step, m.way.trace, "o", markersize=3.5, color=colour)
    style.clip_sideways(axes, dots)
    keep(axes, f"{m.name}, measured", m.way.step, m.way.trace)
    predicted = told(m, first)
    if isinstance(predicted, Prediction):
        keep(axes, f"{m.name}, predicted", predicted.step, predicted.trace)
        line: dict[str, Any] = {"color": colour, "linewidth": 1.2, "label": m.name}
        axes.plot(predicted.step, predicted.trace, **line)
