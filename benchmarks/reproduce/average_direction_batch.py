"""The flatness of D-SGD does not fade with the batch: claim 5 with twice the batch and rate.

python benchmarks/reproduce/average_direction_batch.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from average_direction import GRAPHS, LR, SEEDS, STEPS, at_batch, measured_at

from harness.claim import Claim, Experiment, Measured, Statement
from harness.draw import panels, seeds
from harness.main import main
from harness.runs import Runs
from harness.statistics import paired
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL, LARGE, LOOKS = 4, 8, 5
CLAIM = Claim(
    number="5b",
    name="average_direction_batch",
    title="The flatness of D-SGD does not fade as the batch grows",
    says="With the learning rate in proportion to the batch, D-SGD is as much flatter than "
    "parallel SGD at a large batch as at a small one, or more.",
    source="Zhu et al., Decentralized SGD and Average-direction SAM are Asymptotically "
    "Equivalent, ICML 2023, arXiv:2306.02913",
    setup=f"As claim 5, with {SMALL} and {LARGE} samples a worker, learning rates {LR} and "
    f"{LR * LARGE / SMALL:g}, {STEPS:,} steps each, {SEEDS} seeds. The effect of a graph is its "
    "tr H at the end over that of the complete graph, of the same seed and batch.",
    deviation="As claim 5. Equal steps, so that the larger batch sees twice the samples. The "
    "paper compares 1,024 and 8,192 samples a step.",
    must_see=f"At {LARGE} a worker, tr H: ring < exponential < complete, and gap / (1/2 tr(H "
    "Xi)) is within 0.8 and 1.2 for both. The ratio of tr H of the ring to that of the complete "
    f"graph is not larger at {LARGE} a worker than at {SMALL} (all seeds agree, or the interval "
    "leaves 0 out).",
    refuted_by="A ratio that comes nearer to 1 with the larger batch.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives traces, gaps and test losses at both batches."""
    found: Measured = {}
    for batch in (SMALL, LARGE):
        for name, rows in measured_at(batch, runs, quick).items():
            found.setdefault(name, {}).update(rows)
    return found


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    small, large = (_effect(measured, "ring", batch) for batch in (SMALL, LARGE))
    more = paired(large, small, LOOKS)
    text = f"tr H, ring / complete: not larger at {LARGE} than at {SMALL} a worker"
    said = at_batch(measured, LARGE, LOOKS)
    held = more.n >= SEEDS and more.beyond() <= 0
    return [*said, Statement(text, f"difference {more}, n = {more.n}", held)]


def _effect(measured: Measured, graph: str, batch: int) -> list[float]:
    """Return tr H of a graph over that of the complete graph, of each seed."""
    of = measured["trace"]
    return list(np.divide(of[f"{graph}, {batch}"], of[f"complete, {batch}"]))


def draw(measured: Measured) -> Figure:
    """Draw the trace, and the effect of the graph, at both batches."""
    facts = ["256 digits, label noise 0.2", "K = 16", f"{STEPS:,} steps", f"{SEEDS} seeds"]
    titles = ("tr H at the mean model at the end", "tr H / tr H of the complete graph")
    title = "How flat D-SGD ends, by graph and batch"
    figure, (left, right) = panels(title, facts, titles)
    for batch, colour in ((SMALL, style.BLUE), (LARGE, style.RED)):
        look = {"color": colour, "label": f"{batch} samples a worker"}
        seeds(left, range(3), [measured["trace"][f"{g}, {batch}"] for g in GRAPHS], **look)
        seeds(right, range(3), [_effect(measured, g, batch) for g in GRAPHS], **look)
    for axes in (left, right):
        axes.set_xticks(range(3), GRAPHS)
    left.set(ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.axhline(1, color=style.GREY, lw=1, ls=":")
    return figure


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
