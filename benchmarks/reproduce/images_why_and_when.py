"""Local SGD generalises better than SGD on Fashion-MNIST: small rate, long training, noise.

python benchmarks/reproduce/images_why_and_when.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, below
from harness.draw import panels
from harness.main import main
from harness.runs import Runs
from harness.statistics import paired
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

K, H, SMALL, LARGE, SEEDS, LOOKS = 16, 64, 0.05, 0.4, 5, 7
SWITCH, SHORT, STEPS, OFTEN = 1000, 1500, 6000, 500
FLOOR = 0.7  # of the figure
CELLS: dict[str, dict[str, Any]] = {
    "small rate": {"rate.lr": SMALL},
    "large rate": {"rate.lr": LARGE},
    "no noise": {"rate.lr": SMALL, "task.label_noise": 0},
}
LOSS, ACCURACY = "test loss", "accuracy"
CLAIM = Claim(
    number="1b",
    name="images_why_and_when",
    title="The same on images: Fashion-MNIST and a small net with GroupNorm",
    says="Local SGD generalises better than SGD when the learning rate is small and training "
    "long; with a large rate or short training, or without gradient noise, it does not.",
    source="Gu et al., Why (and When) does Local SGD Generalize Better than SGD?, ICLR 2023, "
    "arXiv:2303.01215",
    setup="4,096 images of Fashion-MNIST, two convolutions of 8 and 16 channels with GroupNorm "
    f"(`cnn8`), fresh label noise 0.1, K = {K} workers of batch 4 drawn with replacement, no "
    f"augmentation, momentum or weight decay. Local SGD has H = {H} from step {SWITCH:,} on, "
    f"SGD goes on with H = 1; rates {SMALL} and {LARGE}, the same before and after the switch, "
    f"read after {SHORT:,} and {STEPS:,} steps; the control has no label noise, rate {SMALL}. "
    f"{SEEDS} seeds. Measured: loss and accuracy of the mean model on 10,000 test images.",
    deviation="ResNet-56 and VGG-16 on all of CIFAR-10 in the paper, from a common "
    "checkpoint and for far longer, at B = 4,096. Before, at seed 100, which is not among the "
    "seeds, with batch 2 and rate 0.1, H = 256 from the first step had been behind SGD by 3 "
    "points of accuracy after 4,000 steps, and had diverged at rate 0.6; rates, H and the switch "
    "were set after that look, without another.",
    must_see="Small rate, long: the test loss of Local SGD is below that of SGD, and its "
    "accuracy above. In the other cells, which are both lengths at the large rate, short at the "
    "small one, and both lengths without label noise, its accuracy is not above (all seeds "
    "agree, or the interval leaves 0 out). A run that diverges is not above.",
    refuted_by="No gain in the first cell, or a gain in one of the others.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives test losses and accuracies at both lengths, and courses."""
    options: dict[str, Any] = {
        "task": "fashion_mnist", "task.subset": 4096, "task.model": "cnn8", "task.groups": 4,
        "task.label_noise": 0.1, "workers": K, "batch_per_worker": 4, "sampling": "replacement",
        "optimizer": "SGD", "rate": "constant", "schedule": "post_local",
        "schedule.switch": 32 if quick else SWITCH, "steps": 96 if quick else STEPS,
        "evaluate_every": 32 if quick else OFTEN,
    }  # fmt: skip
    grid = {"cell": CELLS, "schedule.every": [1, H]}
    done = runs.sweep("cells", options, grid, 1 if quick else SEEDS)
    found: Measured = {"step": {"all": list(range(0, STEPS + 1, OFTEN))}}
    for name in (LOSS, ACCURACY):
        series = f"eval/test/{name.rpartition(' ')[2]}"
        for when, step in (("short", SHORT), ("long", STEPS)):
            row = found[f"{name}, {when}"] = {}
            for label, same in done.items():
                row[label] = [_at(run, series, 96 if quick else step) for run in same]
        course = found[f"{name}, course"] = {}
        for label, same in done.items():
            kept = [run.series(series).value for run in same if run.status == "complete"]
            course[label] = np.mean(kept, axis=0).tolist() if kept else []
    return found


def _at(run: Trajectory, name: str, step: int) -> float:
    """Return a value after a step; that of a guess if the run diverged before."""
    series = run.series(name)
    known = np.flatnonzero(series.step == step)
    value = float(series.value[known[0]]) if len(known) else np.nan
    return value if np.isfinite(value) else 0.1 if name.endswith(ACCURACY) else 1e9


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""

    def of(name: str, cell: str, length: int) -> list[float]:
        return measured[name][f"{cell}, {length}"]

    loss, long = f"{LOSS}, long", f"{ACCURACY}, long"
    first = "small rate"
    said = [below(f"{first}, long: test loss", of(loss, first, H), of(loss, first, 1), LOOKS)]
    better = paired(of(long, first, H), of(long, first, 1), LOOKS)
    told = f"difference {better}, n = {better.n}, p = {better.p:.2g}"
    said.append(Statement(f"{first}, long: accuracy above SGD's", told, better.beyond() > 0))
    for cell, when in (
        (first, "short"),
        ("large rate", "short"),
        ("large rate", "long"),
        ("no noise", "short"),
        ("no noise", "long"),
    ):
        rows = (of(f"{ACCURACY}, {when}", cell, length) for length in (H, 1))
        gain = paired(*rows, LOOKS)
        held = gain.n >= SEEDS and gain.beyond() <= 0
        said.append(Statement(f"{cell}, {when}: accuracy not above", f"difference {gain}", held))
    return said


def draw(measured: Measured) -> Figure:
    """Draw the courses of the accuracy in each cell."""
    facts = ["4,096 images of Fashion-MNIST", f"K = {K}", f"{SEEDS} seeds as dots"]
    facts += [f"dotted line: local steps begin, at step {SWITCH:,}"]
    noisy = f"rate {SMALL}, label noise", f"rate {LARGE}, label noise"
    titles = (*noisy, f"rate {SMALL}, no label noise")
    title = "Local SGD on images: test accuracy of the mean model"
    figure, found = panels(title, facts, titles)
    for axes, cell in zip(found, CELLS, strict=True):
        _draw_cell(axes, measured, cell)
    return figure


def _draw_cell(axes: Axes, measured: Measured, cell: str) -> None:
    steps = measured["step"]["all"]
    axes.axvline(SWITCH, color=style.GREY, lw=0.8, ls=":")
    for length, colour, name in ((1, style.GREY, "SGD"), (H, style.BLUE, f"Local SGD, H = {H}")):
        label = f"{cell}, {length}"
        course, ends = (measured[f"{ACCURACY}, {what}"][label] for what in ("course", "long"))
        lost = sum(end < FLOOR for end in ends)
        name += f"\n({lost} of {len(ends)} below {100 * FLOOR:g} %)" if lost else ""
        axes.plot(steps[: len(course)], course, color=colour, label=name)
        axes.plot([steps[-1]] * len(ends), ends, "o", ms=3, color=colour, alpha=0.7)
    axes.set(ylim=(FLOOR, 0.9), xlabel="step")
    style.in_percent(axes)
    axes.set_xticks([0, steps[-1] / 2, steps[-1]])
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
