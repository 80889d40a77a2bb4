"""What of the set-up of claim 3 its verdict hangs on: each part changed by itself.

python benchmarks/reproduce/ablations.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, below
from harness.draw import panels
from harness.main import main
from harness.runs import Runs, last, trace, values
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

H, SWITCH, STEPS, SEEDS = 128, 512, 2560, 5
SHORT_H, SHORT_SWITCH, SHORT_STEPS = 32, 128, 640
MOMENTUM: dict[str, Any] = {"optimizer.momentum": 0.9, "rate.lr": 0.02}
# What is changed -> options of the parallel run, and what the run with local steps has beside them.
CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as claim 3": ({}, {}),
    "with replacement": ({"sampling": "replacement"}, {}),
    "warm-up of 256 steps": ({"rate.warmup": 256}, {}),
    "momentum, kept": (MOMENTUM, {}),
    "momentum, averaged": (MOMENTUM, {"momentum_at_sync": "average"}),
    "momentum, reset": (MOMENTUM, {"momentum_at_sync": "reset"}),
    "EF-sign": ({}, {"algorithm": "local_sgd", "algorithm.compressor": "sign"}),
}
NORMS: dict[str, dict[str, Any]] = {
    "GroupNorm": {"task.norm": "group"},
    **{
        f"BatchNorm, {policy}": {"task.norm": "batch", "batchnorm": policy}
        for policy in ("reestimate", "average", "local")
    },
}
LOOKS = 2 * len(CHANGED) + len(NORMS)
CLAIM = Claim(
    number="3b",
    name="ablations",
    title="What the verdict of claim 3 hangs on, and what not",
    says="That local steps end flatter and with a lower test loss than parallel SGD hangs neither "
    "on how samples are drawn, nor on momentum or what becomes of it at an exchange, nor on a "
    "warm-up, nor on one bit a number, nor on what is done with BatchNorm's statistics.",
    source="Each paper fixes these in one way: Lin et al., ICLR 2020, arXiv:1808.07217 (momentum "
    "kept, warm-up, EF-sign, local statistics); Gu et al., ICLR 2023, arXiv:2303.01215 "
    "(no momentum, both kinds of sampling, statistics re-estimated)",
    setup=f"Claim 3 with H = {H} against H = 1, {SEEDS} seeds, one part changed at a time. "
    "Momentum 0.9 has a tenth of the rates. The norms on a convolutional net of 16 and 32 channels "
    f"and 32 hidden units, K = 8, {SHORT_STEPS} steps, rounds of {SHORT_H} from step "
    f"{SHORT_SWITCH} on; BatchNorm's statistics re-estimated before the evaluation, averaged at "
    "every exchange, or the mean of local ones.",
    deviation="As claim 3. The runs with norms are too short for the flatness: the test loss alone "
    "is looked at. With BatchNorm the batch of four is also what normalises. After the "
    "predictions were written, and before these runs, a quick trial was looked at (seed 0, a "
    "quarter of the steps, the norms in full): nothing was changed.",
    must_see=f"tr H and test loss: H = {H} < H = 1, with every part changed. Test loss: H = "
    f"{SHORT_H} < H = 1, with every norm and policy.",
    refuted_by="A part without which tr H or the test loss do not fall with local steps: the "
    "verdict hangs on it.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives traces and test losses."""
    count, length = 1 if quick else SEEDS, 4 if quick else 1
    options: dict[str, Any] = {
        "task": "digits", "task.model": "tanh", "task.hidden": 100, "task.test_fraction": 0.8575,
        "task.label_noise": 0.2, "workers": 16, "batch_per_worker": 4, "optimizer": "SGD",
        "rate": "multi_step", "rate.lr": 0.2, "rate.at": [SWITCH // length], "rate.factor": 0.5,
        "steps": STEPS // length, "schedule": "post_local", "schedule.switch": SWITCH // length,
        "snapshot_every": "100%",
    }  # fmt: skip
    found: Measured = {"trace": {}, "test loss": {}}
    for name, said in _conditions().items():
        done = runs.sweep(name.replace(",", "").replace(" ", "_"), {**options, **said}, {}, count)
        found["trace"] |= {name: values(done, trace)["all"]}
        found["test loss"] |= {name: values(done, last("eval/test/loss"))["all"]}
    short = {**options, "task.model": "conv", "task.hidden": 32, "workers": 8}
    short |= {"rate.at": [SHORT_SWITCH], "schedule.switch": SHORT_SWITCH, "steps": SHORT_STEPS}
    del short["snapshot_every"]
    done = runs.sweep("norms", short, {"norm": NORMS, "schedule.every": [1, SHORT_H]}, count)
    return {**found, "norms": values(done, last("eval/test/loss"))}


def _conditions() -> dict[str, dict[str, Any]]:
    """Return the runs but those with norms: what a parallel run is called -> its options."""
    found: dict[str, dict[str, Any]] = {}
    for name, (both, local) in CHANGED.items():
        found[_parallel(name)] = {**both, "schedule.every": 1}
        found[f"{name}, H = {H}"] = {**both, **local, "schedule.every": H}
    return found


def _parallel(name: str) -> str:
    """Return the name of the parallel run that one with local steps is compared with."""
    of = next(other for other in CHANGED if CHANGED[other][0] == CHANGED[name][0])
    return f"{of.partition(',')[0]}, H = 1"


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    said = []
    for name in CHANGED:
        for quantity, title in (("trace", "tr H"), ("test loss", "test loss")):
            local, parallel = (measured[quantity][n] for n in (f"{name}, H = {H}", _parallel(name)))
            said.append(below(f"{name}: {title}, H = {H} < H = 1", local, parallel, LOOKS))
    for name in NORMS:
        local, parallel = (measured["norms"][f"{name}, {h}"] for h in (SHORT_H, 1))
        said.append(below(f"{name}: test loss, H = {SHORT_H} < H = 1", local, parallel, LOOKS))
    return said


def draw(measured: Measured) -> Figure:
    """Draw the ratio of local steps to parallel SGD, one dot a seed, a row a changed part."""
    facts = [
        "256 digits, label noise 0.2",
        f"H = {H} (norms: {SHORT_H}) against H = 1",
        f"{SEEDS} seeds",
        "dotted line: as H = 1",
    ]
    titles = ("tr H / that of H = 1", "test loss / that of H = 1")
    figure, axes = panels("Local steps end flatter whatever else is changed?", facts, titles, 0.1)
    rows = [*CHANGED, *NORMS]
    look: dict[str, Any] = {"color": style.GREY, "fontsize": 8, "va": "center"}
    for panel, quantity in zip(axes, ("trace", "test loss"), strict=True):
        for y, name in enumerate(rows):
            ratio = _ratio(measured, quantity, name)
            panel.plot(ratio, [y] * len(ratio), "o", ms=3, alpha=0.6, color=style.BLUE)
        if quantity == "trace":
            middle = len(CHANGED) + (len(NORMS) - 1) / 2
            said = "not measured: runs with norms are too short"
            panel.text(0.02, middle, said, transform=panel.get_yaxis_transform(), **look)
        panel.axvline(1, color=style.GREY, lw=1, ls=":")
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_yticks(range(len(rows)), rows if panel is axes[0] else [""] * len(rows))
    figure.subplots_adjust(left=0.2)
    return figure


def _ratio(measured: Measured, quantity: str, name: str) -> list[float]:
    """Return what local steps make of a quantity, of each seed; nothing where it is not known."""
    if name in NORMS:
        of, names = measured["norms"], (f"{name}, {SHORT_H}", f"{name}, 1")
    else:
        of, names = measured[quantity], (f"{name}, H = {H}", _parallel(name))
    known = name in CHANGED or quantity == "test loss"
    return list(np.divide(*(of[n] for n in names))) if known else []


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
