"""Post-local SGD ends flatter, and with a lower test loss, than going on in parallel.

python benchmarks/reproduce/post_local.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, below, within
from harness.draw import panels, plain_log, seeds
from harness.main import main
from harness.runs import Runs, last, trace, values
from harness.statistics import paired
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HS, SWITCH, STEPS, SEEDS, LOOKS = (1, 16, 128, 2048), 512, 2560, 5, 7
USUAL, HUGE = 128, 2048
CLAIM = Claim(
    number=3,
    name="post_local",
    title="Post-local SGD ends in flatter minima, with less communication",
    says="Switching to local steps at the first decay of the learning rate ends in flatter "
    "minima and generalises better than going on in parallel with the same large batch, at a "
    "fraction of the communication; flatness grows with H until it saturates, and too large "
    "an H hurts.",
    source="Lin et al., Don't Use Large Mini-Batches, Use Local SGD, ICLR 2020, "
    "arXiv:1808.07217; Gu et al., ICLR 2023, arXiv:2303.01215",
    setup="256 digits, perceptron 64-100-10 (tanh), label noise 0.2, K = 16 workers of batch "
    f"4, {STEPS:,} steps of plain SGD, learning rate 0.2, from step {SWITCH} on 0.1 with "
    f"rounds of H of {HS} steps, {SEEDS} seeds. At the end: tr H of the mean model on the "
    "training images, loss and accuracy on 1 541 test images.",
    deviation="The papers have ResNets on CIFAR-10 and ImageNet, momentum, weight decay and "
    "no label noise; without label noise nothing is seen on data as small as this (a first "
    "look). Large batch at equal communication, hierarchical, momentum and sign variants "
    "were not run.",
    must_see="tr H: H = 16 < H = 1 and H = 128 < H = 16. Test loss: H = 16 and H = 128 < H = "
    "1. Test accuracy: H = 128 > H = 1. H = 128 sends less than a quarter of the bytes. Too "
    f"large an H hurts: test loss at H = {HUGE} (a single round) above that at H = 128.",
    refuted_by="tr H or test loss that does not fall with H.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives traces, test losses, accuracies and bytes."""
    options: dict[str, Any] = {
        "task": "digits", "task.model": "tanh", "task.hidden": 100, "task.test_fraction": 0.8575,
        "task.label_noise": 0.2, "workers": 16, "batch_per_worker": 4, "optimizer": "SGD",
        "rate": "multi_step", "rate.lr": 0.2, "rate.at": [SWITCH], "rate.factor": 0.5,
        "steps": 1024 if quick else STEPS, "schedule": "post_local", "schedule.switch": SWITCH,
        "snapshot_every": "100%",
    }  # fmt: skip
    done = runs.sweep("runs", options, {"schedule.every": list(HS)}, 1 if quick else SEEDS)
    return {
        "trace": values(done, trace),
        "test loss": values(done, last("eval/test/loss")),
        "accuracy": values(done, last("eval/test/accuracy")),
        "bytes": values(done, lambda run: float(run.totals.payload_bytes)),
    }


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    traces, loss = measured["trace"], measured["test loss"]
    share = np.divide(measured["bytes"][str(USUAL)], measured["bytes"]["1"]).tolist()
    better = paired(measured["accuracy"][str(USUAL)], measured["accuracy"]["1"], LOOKS)
    told = f"difference {better}, n = {better.n}, p = {better.p:.2g}"
    hurts = f"test loss: H = {USUAL} < H = {HUGE}"
    return [
        below("tr H: H = 16 < H = 1", traces["16"], traces["1"], LOOKS),
        below(f"tr H: H = {USUAL} < H = 16", traces[str(USUAL)], traces["16"], LOOKS),
        below("test loss: H = 16 < H = 1", loss["16"], loss["1"], LOOKS),
        below(f"test loss: H = {USUAL} < H = 1", loss[str(USUAL)], loss["1"], LOOKS),
        Statement(f"test accuracy: H = {USUAL} > H = 1", told, better.beyond() > 0),
        within(f"bytes, H = {USUAL} / H = 1", share, 0, 0.25, LOOKS),
        below(hurts, loss[str(USUAL)], loss[str(HUGE)], LOOKS),
    ]


def draw(measured: Measured) -> Figure:
    """Draw flatness, test loss and accuracy against H."""
    facts = ["256 digits, label noise 0.2", f"rounds of H from step {SWITCH:,} of {STEPS:,}"]
    titles = ("tr H of the mean model", "test loss", "test accuracy")
    figure, found = panels(
        "Post-local SGD: flatter with longer rounds", [*facts, f"{SEEDS} seeds"], titles
    )
    names = ("trace", "test loss", "accuracy")
    for axes, name, colour in zip(found, names, (style.BLUE, style.RED, style.GREY), strict=True):
        seeds(axes, HS, [measured[name][str(H)] for H in HS], color=colour)
        axes.set_xlabel("H after the switch (1: parallel)")
        plain_log(axes, HS)
    found[0].set_ylim(0, None)
    return figure


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
