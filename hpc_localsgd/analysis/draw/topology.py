"""A topology as a picture: workers on a circle, a line where parameters are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.figure_data import keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hpc_localsgd.topology import Topology

MOST = 64  # workers that can be told apart
MIXES = 4  # of a topology that changes, drawn in one picture, the first strongest


def draw_topology(axes: Axes, topology: Topology, K: int) -> None:
    """Draw who sends to whom, named with its spectral gap.

    Arrows where a worker receives from one it does not send to. Of a topology that changes from
    mix to mix the first few are drawn, paler and paler.

    Args:
        axes: The panel.
        topology: The topology.
        K: Workers, as many as it allows.
    """
    from hpc_localsgd.topology import gap  # with networkx, which no other figure needs

    name = type(topology).__name__
    style.title(axes, f"{name}, spectral gap {gap(topology, K):.3g}")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if K > MOST:
        style.note(axes, f"{K} workers: too many to draw")
        return
    angle = 2 * np.pi * np.arange(K) / K
    places = np.column_stack([np.sin(angle), np.cos(angle)])  # worker 0 on top, then clockwise
    mixes = range(min(topology.period(K) or MIXES, MIXES))
    for k in reversed(mixes):
        _draw_mix(axes, topology.push_matrix(K, k), places, 0.55 * 0.5**k, k)
    dots: dict[str, Any] = {"s": max(10, 240 / K), "color": style.BLUE, "zorder": 3}
    axes.scatter(places[:, 0], places[:, 1], linewidth=0, **dots)
    if len(mixes) > 1:
        axes.set_xlabel(f"the first {len(mixes)} mixes, the first darkest", fontsize=8)
    axes.set_xlim(-1.15, 1.15)
    axes.set_ylim(-1.15, 1.15)


def _draw_mix(axes: Axes, W: np.ndarray, places: np.ndarray, strength: float, k: int) -> None:
    """Draw the edges of one mixing matrix."""
    receives = (W > 0) & ~np.eye(len(W), dtype=bool)
    for to, of in np.argwhere(receives & receives.T & np.tri(len(W), dtype=bool)):
        ends = places[[of, to]]
        axes.plot(ends[:, 0], ends[:, 1], color=style.INK, alpha=strength, linewidth=0.8, zorder=1)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": style.INK, "alpha": strength}
    shape: dict[str, Any] = {**arrow, "linewidth": 0.7, "mutation_scale": 7, "shrinkB": 4}
    for to, of in np.argwhere(receives & ~receives.T):
        axes.annotate("", places[to], xytext=places[of], arrowprops=shape)
    found = np.argwhere(receives)
    names = ("sends", "receives")
    keep(axes, f"mix {k}", found[:, 1], found[:, 0], names=names)
