"""DPSGD trains at learning rates at which SSGD and SSGD* fail; its effective rate adjusts itself.

python benchmarks/reproduce/large_rates.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from harness.claim import Claim, Experiment, Measured, Statement, above, below, within
from harness.draw import panels
from harness.main import main
from harness.runs import Runs, last, values
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

RATES, AT, SEEDS, LOOKS = (1.0, 2.0, 2.5, 4.0), 2.5, 8, 7
SUCCESS, EARLY, LATE = 0.9, 100, 300
SSGD = {"algorithm": "allreduce"}
RING = {"algorithm": "gossip", "algorithm.topology": "ring"}
METHODS: dict[str, dict[str, Any]] = {
    "SSGD": SSGD,
    "SSGD*": {**SSGD, "gradient": "noise_injected", "gradient.sigma": 0.05},
    "DPSGD, ring": RING,
}
AWC = "DPSGD, ring, AWC"
CLAIM = Claim(
    number=4,
    name="large_rates",
    title="DPSGD trains at rates at which synchronous SGD fails",
    says="At large learning rate and batch DPSGD converges where SSGD, and SSGD with noise "
    "of constant size (SSGD*), do not: its noise follows the landscape, and so its effective "
    "learning rate falls early and recovers.",
    source="Zhang et al., Loss Landscape Dependent Self-Adjusting Learning Rates in "
    "Decentralized Stochastic Gradient Descent, arXiv:2112.01433",
    setup="Digits, 1 200 training images, perceptron 64-50-50-10 (ReLU), K = 16, 64 samples "
    f"a worker, 400 steps of plain SGD without warm-up, learning rates {RATES}, {SEEDS} "
    "seeds. Mixing over a ring, after the step (ATC) or, at 2.5 only, before it (AWC); SSGD* "
    "has noise of deviation 0.05 in every weight. Success: a test accuracy of the mean model "
    f"above {SUCCESS}. At rate {AT} the effective learning rate of the ring (ATC), after the "
    "mix, every 8 steps.",
    deviation="The paper has MNIST with a net of this shape, CIFAR-10, ImageNet and speech; "
    "its rates and batches there are not known to us in full. Its order is AWC as far as we "
    "know; ATC is the default of this package. No recurrent net. The steps over which "
    "medians are taken were set after a look at seed 0.",
    must_see=f"At rate {AT}: the ring (ATC) succeeds more often than SSGD and than SSGD*, and "
    "so does the ring in the paper's order (AWC); at rate 1 the ring succeeds always. The "
    f"median effective rate of the first {EARLY} steps is below half the rate, that after "
    f"step {LATE} above 0.8 of it, and over the steps it falls where the spread of the "
    "workers is large (rank correlation below 0).",
    refuted_by="SSGD or SSGD* as successful as DPSGD at every rate, or an effective rate "
    "that stays what the rate is.",
    remark="The rate of the predictions was taken from another implementation of this "
    "set-up, in which the ring succeeded in 7 of 8; here the window is lower. At rate 2, "
    "which nothing was predicted of, the ring succeeds in 6 of 8 seeds (one diverges), SSGD "
    "and SSGD* in none; at 2.5 the ring learns something in every seed (accuracies 0.14 to "
    "0.96) and SSGD in none (0.1). AWC gains nothing.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives final accuracies, and effective rates over steps."""
    common: dict[str, Any] = {
        "task": "digits", "task.model": "deep", "task.hidden": 50, "task.test_fraction": 0.3322,
        "workers": 16, "batch_per_worker": 64, "steps": 400, "optimizer": "SGD",
        "schedule": "every", "rate": "constant",
    }  # fmt: skip
    count = 1 if quick else SEEDS
    grid = {"method": METHODS, "rate.lr": [AT] if quick else list(RATES)}
    done = runs.sweep("rates", common, grid, count)
    other = {**common, **RING, "algorithm.order": "awc", "rate.lr": AT}
    done[f"{AWC}, {AT}"] = runs.sweep("awc", other, {}, count)["all"]
    accuracy = {
        label: [float(np.nan_to_num(x)) for x in found]  # numbers that are no longer finite: 0
        for label, found in values(done, last("eval/test/accuracy")).items()
    }
    often = {"gradients_every": 8, "spread_every": 8, "probe_samples": 1200}
    ring = runs.sweep("effective", {**common, **RING, **often, "rate.lr": AT}, {}, count)["all"]
    return {
        "accuracy": accuracy,
        "step": {"all": [float(t) for t in ring[0].series("gradient/effective_lr").step]},
        "effective": {str(i): _course(run) for i, run in enumerate(ring)},
        "spread": {str(i): run.series("spread").value.tolist() for i, run in enumerate(ring)},
    }


def _course(run: Trajectory) -> list[float]:
    """Return alpha_e / lr at each measurement."""
    return [float(x) / AT for x in run.series("gradient/effective_lr").value]


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""

    def success(method: str, rate: float = AT) -> list[float]:
        return [float(x > SUCCESS) for x in measured["accuracy"][f"{method}, {rate}"]]

    ssgd, ring, awc = (success(m) for m in ("SSGD", "DPSGD, ring", AWC))
    said = [
        below(f"success at rate {AT}: SSGD < ring", ssgd, ring, LOOKS),
        below(f"success at rate {AT}: SSGD* < ring", success("SSGD*"), ring, LOOKS),
        below(f"success at rate {AT}: SSGD < ring, AWC", ssgd, awc, LOOKS),
    ]
    if f"SSGD, {RATES[0]}" in measured["accuracy"]:
        at_1 = success("DPSGD, ring", RATES[0])
        said.append(within("success at rate 1: ring, always", at_1, 1, 1, LOOKS))
    early, late, rank = _of_the_course(measured)
    said.append(within(f"median effective rate / rate, to step {EARLY}", early, -9, 0.5, LOOKS))
    said.append(above(f"median from step {LATE} > 0.8", late, 0.8, LOOKS))
    said.append(within("rank correlation with the spread", rank, -1, 0, LOOKS))
    return said


def _of_the_course(measured: Measured) -> tuple[list[float], list[float], list[float]]:
    """Return medians early and late, and the correlation with the spread, of each seed."""
    step, early, late, rank = np.array(measured["step"]["all"]), [], [], []
    for seed, course in measured["effective"].items():
        row = np.array(course)
        early.append(float(np.nanmedian(row[step <= EARLY])))
        late.append(float(np.nanmedian(row[step >= LATE])))
        spread = measured["spread"][seed][-len(row) :]
        rank.append(float(spearmanr(spread, row, nan_policy="omit").statistic))
    return early, late, rank


def draw(measured: Measured) -> Figure:
    """Draw how many of the seeds succeed at each rate, and the effective rate over steps."""
    facts = ["digits", "K = 16 x 64 samples", "400 steps", f"{SEEDS} seeds", "success: above 0.9"]
    facts += ["empty: not run", "line: median of seeds"]
    titles = ("seeds of 8 that succeed", f"effective rate / rate: ring, rate {AT}")
    figure, (left, right) = panels("DPSGD succeeds at rates where SSGD fails", facts, titles, 0.6)
    _draw_success(left, measured)
    step = np.array(measured["step"]["all"])
    rows = np.array(list(measured["effective"].values()))
    right.plot(step, rows.T, ".", ms=2, color=style.BLUE, alpha=0.4)
    right.plot(step, np.nanmedian(rows, axis=0), color=style.BLUE)
    right.axhline(1, color=style.GREY, lw=1, ls=":")
    right.set(ylim=(-0.5, 2), xlabel="step")
    return figure


def _draw_success(axes: Axes, measured: Measured) -> None:
    """Draw a row a method and a column a rate: how many seeds succeeded."""
    rates = [r for r in RATES if f"SSGD, {r}" in measured["accuracy"]]
    rows = [*METHODS, AWC]
    count = np.full((len(rows), len(rates)), np.nan)
    for i, j in np.ndindex(count.shape):
        found = measured["accuracy"].get(f"{rows[i]}, {rates[j]}")
        if found is not None:
            count[i, j] = sum(x > SUCCESS for x in found)
            axes.text(j, i, f"{count[i, j]:.0f}", ha="center", va="center", color=style.INK)
    axes.imshow(count, cmap="Blues", vmin=0, vmax=SEEDS * 1.6, aspect="auto")
    axes.set_xticks(range(len(rates)), [f"{r:g}" for r in rates])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("learning rate")
    axes.grid(False)
    box = axes.get_position()
    axes.set_position((box.x0 + 0.09, box.y0, box.width - 0.04, box.height))


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
