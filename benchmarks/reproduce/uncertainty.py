"""The workers of D-SGD give an uncertainty for nothing: how good is it beside an ensemble's?

python benchmarks/reproduce/uncertainty.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from average_direction import LR, SEEDS, STEPS

from harness.claim import Claim, Experiment, Measured, Statement, above, below
from harness.draw import panels, seeds
from harness.main import main
from harness.runs import Runs, last, values
from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALONE = {"algorithm": "local_sgd", "schedule.steps": STEPS}
WORKERS: dict[str, dict[str, Any]] = {
    "ring": {"algorithm": "gossip", "algorithm.topology": "ring"},
    "exponential": {"algorithm": "gossip", "algorithm.topology": "exponential"},
    "ensemble": ALONE,
}
SCORES = {"nll": "loss", "brier": "Brier score", "calibration_error": "calibration error"}
LOOKS = 2 + 1 + 2 * len(SCORES) + 1
CLAIM = Claim(
    number="5c",
    name="uncertainty",
    title="The workers of D-SGD give an uncertainty for nothing",
    says="The covariance Xi of the workers estimates that of a posterior: how much the workers' "
    "predictions differ says which predictions to distrust, and their average is better "
    "calibrated than the mean model.",
    source="Zhu et al., Decentralized SGD and Average-direction SAM are Asymptotically "
    "Equivalent, ICML 2023, arXiv:2306.02913",
    setup=f"The runs of claim 5 (256 digits, label noise 0.2, K = 16, {STEPS:,} steps, {SEEDS} "
    "seeds) over a ring and an exponential graph, and a plain ensemble: 16 workers that train as "
    "long by themselves. At the end, after the mix, on 1 541 test images without label noise: "
    "predictive variance 1/K sum_k |p_k - mean p|^2; loss, Brier score and calibration error (15 "
    "bins) of the workers' average prediction and of the mean model.",
    deviation="The paper measures no calibration that we know of. The ensemble's members begin at "
    "the same parameters and have the order of the samples and the label noise of their own, where "
    "deep ensembles (Lakshminarayanan et al. 2017) begin apart. Label noise makes models less sure "
    "than they are right: there an average, which is less sure still, may be worse calibrated, "
    "which was said before anything was measured.",
    must_see="Predictive variance, ring and exponential: larger on samples that the average gets "
    "wrong than on those it gets right; ring > exponential. Loss, Brier score and calibration "
    "error, ring and exponential: the workers' average below the mean model. Loss: the "
    "ensemble's average below that of the ring's workers.",
    refuted_by="A variance that does not tell wrong from right, or an average of the workers that "
    "is worse in loss, Brier score and calibration than the mean model.",
    remark="The workers differ about twice as much where they are wrong, in every seed, and that "
    "costs nothing. Their average is worse than the mean model in all three scores and every seed, "
    "by 1 to 4 %: by what would refute it, the second half of the claim is refuted here. Models "
    "trained with label noise are less sure than they are right (by 0.24 of probability), averages "
    "still less, and the ensemble, whose members differ most, has the highest loss. Where models "
    "are surer than they are right it may be otherwise: not tried.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives what the probe of uncertainty has measured at the end."""
    steps = STEPS // 4 if quick else STEPS
    options: dict[str, Any] = {
        "task": "digits", "task.model": "tanh", "task.hidden": 100,
        "task.test_fraction": 0.8575, "task.label_noise": 0.2, "workers": 16,
        "batch_per_worker": 4, "optimizer": "SGD", "rate": "constant", "rate.lr": LR,
        "steps": steps, "schedule": "every", "uncertainty_every": "100%",
    }  # fmt: skip
    done = runs.sweep("runs", options, {"workers are": WORKERS}, 1 if quick else SEEDS)
    names = [f"{whose}/{score}" for whose in ("mean_model", "workers") for score in SCORES]
    names += ["variance", "variance_right", "variance_wrong"]
    return {name: values(done, last(f"uncertainty/{name}")) for name in names}


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    said = []
    graphs = [name for name in WORKERS if name != "ensemble"]
    for graph in graphs:
        pair = (measured[f"variance_{which}"][graph] for which in ("wrong", "right"))
        ratio = [wrong / right for wrong, right in zip(*pair, strict=True)]
        said.append(above(f"{graph}: variance, wrong / right > 1", ratio, 1, LOOKS))
    of = measured["variance"]
    said.append(below("variance: exponential < ring", of["exponential"], of["ring"], LOOKS))
    for graph in graphs:
        for score, title in SCORES.items():
            own, mean = (measured[f"{w}/{score}"][graph] for w in ("workers", "mean_model"))
            said.append(below(f"{graph}: {title}, workers < mean model", own, mean, LOOKS))
    loss = measured["workers/nll"]
    return [*said, below("loss: ensemble < ring's workers", loss["ensemble"], loss["ring"], LOOKS)]


def draw(measured: Measured) -> Figure:
    """Draw the variance on right and wrong samples, and two scores of average and mean model."""
    facts = ["256 digits, label noise 0.2", "K = 16", f"{STEPS:,} steps", f"{SEEDS} seeds"]
    titles = ("predictive variance", "test loss", "calibration error")
    title = "Workers differ more where they are wrong; their average is no better calibrated"
    figure, axes = panels(title, facts, titles)
    rows = {"variance": ("variance_right", "variance_wrong")}
    rows |= {score: (f"mean_model/{score}", f"workers/{score}") for score in SCORES}
    labels = {"variance": ("right", "wrong")}
    for panel, name in zip(axes, ("variance", "nll", "calibration_error"), strict=True):
        said = labels.get(name, ("mean model", "workers' average"))
        for key, colour, label in zip(rows[name], (style.GREY, style.BLUE), said, strict=True):
            found = [measured[key][who] for who in WORKERS]
            seeds(panel, range(len(WORKERS)), found, color=colour, label=label)
        panel.set_xticks(range(len(WORKERS)), list(WORKERS))
        panel.set_ylim(0, 1.06 * panel.get_ylim()[1])
        panel.legend(frameon=False, fontsize=8)
    return figure


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
