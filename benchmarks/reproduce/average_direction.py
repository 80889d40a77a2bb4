"""D-SGD behaves as average-direction SAM: the sparser the graph, the flatter the minimum.

python benchmarks/reproduce/average_direction.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, below, within
from harness.draw import panels, seeds
from harness.main import main
from harness.runs import Runs, last, trace, values
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

GRAPHS, BATCHES, LR, STEPS = ("complete", "exponential", "ring"), (4,), 0.1, 2048
SEEDS, LOOKS = 5, 2 * len(BATCHES) * 2
CLAIM = Claim(
    number=5,
    name="average_direction",
    title="D-SGD behaves as average-direction SAM",
    says="The mean of decentralised workers descends L + 1/2 tr(H Xi), Xi the covariance of "
    "the workers after the mix: a sparser graph has a larger Xi and ends in a flatter "
    "minimum. (And the effect does not fade as the batch grows: not tried here.)",
    source="Zhu et al., Decentralized SGD and Average-direction SAM are Asymptotically "
    "Equivalent, ICML 2023, arXiv:2306.02913",
    setup=f"256 digits, perceptron 64-100-10 (tanh), label noise 0.2, K = 16, {BATCHES[0]} "
    f"samples a worker, learning rate {LR}, {STEPS:,} steps, complete, exponential and ring "
    f"graph (ATC), {SEEDS} seeds. At the end: tr H of the mean model on all training images. "
    "After the mix, every 256 steps of the second half: gap = mean_k L(w_k) - L(mean) and "
    "1/2 tr(H Xi) by second differences of L along the workers.",
    deviation="The paper has pre-trained nets on CIFAR-10 and Tiny-ImageNet, its order is "
    "AWC, and it shows flatness by landscapes. Here are label noise, ATC and a small "
    "perceptron. No second batch size, and no explicit average-direction SAM of the same "
    "covariance.",
    must_see="tr H: ring < exponential < complete. Gap / (1/2 tr(H Xi)) is within 0.8 and "
    "1.2 for ring and exponential.",
    refuted_by="No order of tr H, or a gap that is not 1/2 tr(H Xi).",
    remark="The ring is a tenth flatter than the complete graph after these steps, and the "
    "difference is in every seed. That the gap is 1/2 tr(H Xi) says that what is beyond "
    "second order is small here: both are of the same workers.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives traces, gaps and test losses."""
    found: Measured = {}
    for batch in BATCHES[:1] if quick else BATCHES:
        for name, rows in measured_at(batch, runs, quick).items():
            found.setdefault(name, {}).update(rows)
    return found


def measured_at(batch: int, runs: Runs, quick: bool) -> Measured:
    """Do the runs of a batch, with a rate in proportion to it, and give what was measured."""
    options: dict[str, Any] = {
        "task": "digits", "task.model": "tanh", "task.hidden": 100,
        "task.test_fraction": 0.8575, "task.label_noise": 0.2, "workers": 16,
        "batch_per_worker": batch, "optimizer": "SGD", "rate": "constant",
        "rate.lr": LR * batch / BATCHES[0], "steps": STEPS // 4 if quick else STEPS,
        "schedule": "every", "algorithm": "gossip", "snapshot_every": "100%",
        "deviations_every": 256, "spread_every": 64, "probe_samples": 128,
    }  # fmt: skip
    grid = {"algorithm.topology": list(GRAPHS)}
    done = runs.sweep(f"batch={batch}", options, grid, 1 if quick else SEEDS)
    readers = {
        "trace": trace,
        "ratio": _ratio,
        "test loss": last("eval/test/loss"),
        "spread": lambda run: float(_second_half(run, "spread").mean()),
    }
    return {
        name: {f"{graph}, {batch}": x for graph, x in values(done, of).items()}
        for name, of in readers.items()
    }


def _second_half(run: Trajectory, name: str) -> np.ndarray:
    series = run.series(name)
    return np.asarray(series.value[series.step > series.step[-1] / 2], dtype=float)


def _ratio(run: Trajectory) -> float:
    """Return the mean gap over the mean of 1/2 tr(H Xi); NaN where workers are equal."""
    gap, half = (_second_half(run, f"xi/{name}") for name in ("gap", "half_trace"))
    return float(np.nanmean(gap) / np.nanmean(half)) if np.nanmean(half) > 0 else float("nan")


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    return [each for batch in BATCHES for each in at_batch(measured, batch, LOOKS)]


def at_batch(measured: Measured, batch: int, looks: int) -> list[Statement]:
    """Decide what was predicted of a batch."""
    said, traces = [], measured["trace"]
    for sparse, dense in (("ring", "exponential"), ("exponential", "complete")):
        text = f"tr H, {batch} a worker: {sparse} < {dense}"
        a, b = traces[f"{sparse}, {batch}"], traces[f"{dense}, {batch}"]
        said.append(below(text, a, b, looks))
    for graph in GRAPHS[1:]:
        text = f"gap / (1/2 tr(H Xi)), {graph}, {batch} a worker"
        said.append(within(text, measured["ratio"][f"{graph}, {batch}"], 0.8, 1.2, looks))
    return said


def draw(measured: Measured) -> Figure:
    """Draw the trace and the identity against the graph."""
    facts = ["256 digits, label noise 0.2", "K = 16", f"{STEPS:,} steps", f"{SEEDS} seeds"]
    titles = ("tr H at the mean model at the end", "gap / (1/2 tr(H Xi)) after the mix")
    figure, (left, right) = panels(
        "Sparser graphs end flatter, and the gap is 1/2 tr(H Xi)", facts, titles
    )
    batches = [b for b in BATCHES if f"ring, {b}" in measured["trace"]]
    for batch, colour in zip(batches, (style.BLUE, style.RED), strict=False):
        look = {"color": colour, "label": f"{batch} samples a worker"}
        seeds(left, range(3), [measured["trace"][f"{g}, {batch}"] for g in GRAPHS], **look)
        rows = [measured["ratio"][f"{g}, {batch}"] for g in GRAPHS[1:]]
        seeds(right, range(2), rows, **look)
    left.set_xticks(range(3), GRAPHS)
    left.set(ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.set_xticks(range(2), GRAPHS[1:])
    right.set(ylim=(0, 1.5), xlim=(-0.5, 1.5))
    right.axhline(1, color=style.GREY, lw=1, ls=":")
    return figure


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
