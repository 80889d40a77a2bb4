"""QSR, H ~ 1/eta^2, against other rules that communicate as often: constant H, 1/eta, 1/eta^3.

python benchmarks/reproduce/quadratic_rule.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, below, within
from harness.draw import panels
from harness.main import main
from harness.runs import Runs, last, trace, values
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

K, STEPS, SEEDS, LOOKS = 8, 12_000, 5, 10
GENTLE, STEEP = (0.012, 0.001), (0.03, 0.002)  # the rate at the beginning and at the end
UNSTABLE = 32  # H at which runs from the larger rate do not survive


def _every(H: int) -> dict[str, Any]:
    return {"schedule": "every", "schedule.steps": H}


def _rule(alpha: float, power: int, at_least: int) -> dict[str, Any]:
    found = {"schedule": "qsr", "schedule.alpha": alpha, "schedule.power": power}
    return {**found, "schedule.at_least": at_least}


# The alphas of the other powers give as many rounds as QSR's, to 1 %.
QSR, BASE, SAME = "QSR", "H = 4", "H = 9"
RULES: dict[str, dict[str, Any]] = {
    "H = 1": _every(1),
    BASE: _every(4),
    SAME: _every(9),
    "H ~ 1/eta": _rule(0.06, 1, 4),
    QSR: _rule(0.0225, 2, 4),
    "H ~ 1/eta^3": _rule(0.0156, 3, 4),
    "H = 64": _every(64),
}
FAST: dict[str, dict[str, Any]] = {
    "H = 1": _every(1),
    "H = 4": _every(4),
    f"H = {UNSTABLE}": _every(UNSTABLE),
    QSR: _rule(0.0387, 2, 2),
}
CLAIM = Claim(
    number=6,
    name="quadratic_rule",
    title="The quadratic synchronisation rule against rules that communicate as often",
    says="With a decaying learning rate, rounds of H ~ 1/eta^2 steps (QSR) generalise better "
    "than a constant H and than H ~ 1/eta at the same communication.",
    source="Gu et al., A Quadratic Synchronization Rule for Distributed Deep Learning, ICLR "
    "2024, arXiv:2310.14423",
    setup="The diagonal linear net of claim 1 with fresh label noise, "
    f"K = {K} workers of batch 1, {STEPS:,} steps, cosine rate from {GENTLE[0]} to {GENTLE[1]}, "
    f"{SEEDS} seeds. QSR with H at least 4 takes 1,379 rounds (11 %), the longest of 446 steps; "
    "H ~ 1/eta, H ~ 1/eta^3 (both at least 4) and H = 9 take as many, to 4 %. Beside them H = "
    f"1, 4 and 64. Stability: from {STEEP[0]} to {STEEP[1]}, QSR with H at least 2, against H = "
    f"1, 4 and {UNSTABLE}. Measured: tr H and test loss of the mean model at the end.",
    deviation="ResNet-152 and ViT-B on ImageNet, AdamW for the latter, in the paper. A first "
    "look with another implementation, at other lengths and without rules of equal "
    "communication, had found QSR better than H = 4 and than H ~ 1/eta, and a constant H = 64 "
    "better than all.",
    must_see="QSR has a lower tr H and a lower test loss than each of: H = 4, with less than "
    "half of its rounds; H ~ 1/eta and H = 9, with as many. From the larger rate "
    f"H = {UNSTABLE} diverges in every seed and QSR in none, and QSR has a lower test loss than H "
    "= 1. Of the cubic rule nothing is predicted. (Expected to fail, from that first look: H = 9.)",
    refuted_by="A constant H of the same communication that is as flat and as good.",
    remark="The claim is refuted here: at the communication of QSR, H = 9 is flatter and has the "
    "lower test loss in every seed (0.64 against 0.69), H ~ 1/eta is a little flatter, and H "
    "= 64 is better than all (0.39) with a seventh of the rounds. H ~ 1/eta^3 is a little "
    "flatter than QSR. In this net flatness is gained while the rate is large, where QSR has "
    "its shortest rounds; the far longer training of the paper at small rates is not tried "
    "here. What QSR has is stability: from the larger rate it survives, and is better than H "
    "= 1 in every seed, but H = 4 with as many rounds survives too, and is better still. The "
    "runs were done at commit 81f5f0b.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives traces, test losses, rounds and which runs survived."""
    options: dict[str, Any] = {
        "task": "diagonal_net", "workers": K, "batch_per_worker": 1, "dtype": "float64",
        "optimizer": "SGD", "rate": "cosine", "rate.warmup": 0,
        "steps": 1200 if quick else STEPS, "snapshot_every": "100%",
    }  # fmt: skip
    found: Measured = {}
    for name, (high, low), rules in (("gentle", GENTLE, RULES), ("steep", STEEP, FAST)):
        rate = {"rate.lr": high, "rate.floor": low}
        done = runs.sweep(name, {**options, **rate}, {"rule": rules}, 1 if quick else SEEDS)
        found[f"{name}: test loss"] = values(done, last("eval/test/loss"))
        found[f"{name}: rounds"] = values(done, _rounds)
        found[f"{name}: survived"] = {
            label: [float(run.status == "complete") for run in same] for label, same in done.items()
        }
        if name == "gentle":
            found["gentle: tr H"] = values(done, trace)
    return found


def _rounds(run: Trajectory) -> float:
    return float(len(run.rounds))


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    said, loss = [], measured["gentle: test loss"]
    for rule in (BASE, "H ~ 1/eta", SAME):
        for name in ("tr H", "test loss"):
            of = measured[f"gentle: {name}"]
            said.append(below(f"{name}: QSR < {rule}", of[QSR], of[rule], LOOKS))
    rounds = measured["gentle: rounds"]
    share = [x / y for x, y in zip(rounds[QSR], rounds[BASE], strict=True)]
    said.append(within(f"rounds: QSR / {BASE}", share, 0, 0.5, LOOKS))
    assert set(loss) == set(RULES)
    alive, fast = measured["steep: survived"], measured["steep: test loss"]
    gone = [1 - x for x in alive[f"H = {UNSTABLE}"]]
    said.append(within(f"from {STEEP[0]}: H = {UNSTABLE} diverges, always", gone, 1, 1, LOOKS))
    said.append(within(f"from {STEEP[0]}: QSR survives, always", alive[QSR], 1, 1, LOOKS))
    text = f"from {STEEP[0]}, test loss: QSR < H = 1"
    return [*said, below(text, fast[QSR], fast["H = 1"], LOOKS)]


def draw(measured: Measured) -> Figure:
    """Draw flatness and test loss against communication."""
    facts = ["diagonal linear net", f"K = {K}", f"{STEPS:,} steps", f"{SEEDS} seeds as dots"]
    facts.append("%: rounds of the steps")
    rate = f"rate {GENTLE[0]} to {GENTLE[1]}"
    titles = (f"tr H, {rate}", f"test loss, {rate}", f"test loss, {STEEP[0]} to {STEEP[1]}")
    title = "QSR against rules that communicate as often"
    figure, found = panels(title, facts, titles, 0.65)
    names = ("gentle: tr H", "gentle: test loss", "steep: test loss")
    for axes, name in zip(found, names, strict=True):
        _draw_rows(axes, measured, name)
    figure.subplots_adjust(**style.frame(figure, 1.4, 0.35, 1.1, 0.4))
    found[1].set_yticklabels([])  # of the same rules as the panel before it
    return figure


def _draw_rows(axes: Axes, measured: Measured, name: str) -> None:
    """Draw a row a rule, with its share of the rounds of parallel SGD."""
    rules, of = list(measured[name]), measured[name]
    rounds = measured[f"{name.partition(':')[0]}: rounds"]
    words = []
    for i, rule in enumerate(rules):
        shown = [x for x in of[rule] if np.isfinite(x)]
        colour = style.RED if rule == QSR else style.BLUE if "eta" in rule else style.GREY
        axes.plot(shown, [i] * len(shown), "o", ms=3, alpha=0.6, color=colour)
        if shown:
            axes.plot([np.mean(shown)], [i], "|", ms=13, mew=2, color=colour)
        else:
            axes.text(0.05, i, "all diverge", va="center", fontsize=8, color=style.GREY)
        counts = [x for x in rounds[rule] if np.isfinite(x)]
        words.append(f"{rule}, {100 * counts[0] / STEPS:.0f} %" if counts else rule)
    axes.set_yticks(range(len(rules)), words)
    most = max(x for row in of.values() for x in row if np.isfinite(x))
    axes.set(xlim=(0, 1.06 * most), ylim=(len(rules) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
