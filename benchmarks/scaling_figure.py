"""The figure of `benchmarks/scaling.py`: samples a second against ranks, beside the ideal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare.legend import look_of
from hpc_localsgd.analysis.figure_data import keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "weak": "weak: as many samples a worker",
    "strong": "strong: as many samples in all",
}


class Measured(Protocol):
    """What is drawn of a job, see `scaling.Rate`."""

    kind: str
    every: int
    ranks: int
    samples_per_s: float


def draw(rates: Sequence[Measured], facts: Sequence[str]) -> Figure:
    """Draw a panel for weak and one for strong scaling, a line a method."""
    figure = style.titled_sheet(9.6, 4.2, "Scaling", facts)
    grid: dict[str, Any] = {**style.frame(figure, 0.85, 0.35, 1.15, 0.65), "wspace": 0.12}
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw=grid)
    for axes, kind in zip(panels, TITLES, strict=True):
        axes.set_title(TITLES[kind], loc="left", fontsize=9)
        _draw_panel(axes, [r for r in rates if r.kind == kind])
    panels[0].set_ylabel("samples a second, all workers")
    panels[0].legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def _draw_panel(axes: Axes, rates: Sequence[Measured]) -> None:
    ranks = sorted({r.ranks for r in rates})
    best = max(r.samples_per_s / r.ranks for r in rates if r.ranks == ranks[0])
    ideal: dict[str, Any] = {"color": style.PALE, "linewidth": 3, "zorder": 1}
    axes.plot(ranks, [best * n for n in ranks], label="as the fewest ranks, times more", **ideal)
    for i, every in enumerate(sorted({r.every for r in rates})):
        line = sorted((r for r in rates if r.every == every), key=lambda r: r.ranks)
        x, y = [r.ranks for r in line], [r.samples_per_s for r in line]
        name = "parallel SGD (H = 1)" if every == 1 else f"Local SGD (H = {every})"
        axes.plot(x, y, linewidth=1.2, markersize=4, label=name, **look_of(i))
        keep(axes, name, x, y)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.minorticks_off()
    axes.set_xlabel("ranks")
