"""The linear scaling rule: in slow time SGD gains nothing from more workers, Local SGD does.

python benchmarks/reproduce/linear_scaling.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import linregress

from harness.claim import Claim, Experiment, Measured, Statement, above, within
from harness.draw import named_lines, panels
from harness.main import main
from harness.runs import Runs, values
from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.slow_sde import Manifold, Regime, euler_maruyama
from hpc_localsgd.tasks.manifold import manifold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

KS, HS, PAIRS, X0 = (4, 8, 16), (1, 64), 512, 1.5
LR, SAMPLES = 0.0025, 16384  # learning rate of a sample of the batch; samples of all workers
SEEDS, LOOKS = 5, 2 + len(KS) * len(HS)
CLAIM = Claim(
    number=7,
    name="linear_scaling",
    title="The linear scaling rule: SGD gains nothing from more workers, Local SGD does",
    says="With the learning rate in proportion to the number of workers, and equal epochs, "
    "the drift of SGD towards flat minima stays what it was; that of Local SGD grows with K.",
    source="Gu et al., ICLR 2023, arXiv:2303.01215, the discussion of the Slow SDE "
    "(re-derived: we do not have the full text)",
    setup=f"The valley of claim 2, {PAIRS} copies a run, K of {KS} with batch 1 a worker, "
    f"learning rate {LR} K, {SAMPLES:,} samples in all (so {SAMPLES:,} / K steps), SGD and "
    f"Local SGD with H = {HS[1]}, {SEEDS} seeds. Measured: the decay log x(0) / x(end).",
    deviation="On the manifold only, where the drift is seen exactly; the paper argues for nets.",
    must_see="The slope of log decay on log K is within 0.1 of 0 for SGD and above 0.5 for "
    "Local SGD; every decay is within 3 % of the Slow SDE's.",
    refuted_by="A slope for SGD away from 0, or one for Local SGD that is not above it.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives the decays and their predictions."""
    samples, found = SAMPLES // 4 if quick else SAMPLES, dict[str, list[float]]()
    for K in KS:
        options: dict[str, Any] = {
            "task": "manifold", "task.pairs": 16 if quick else PAIRS, "task.y": 0, "task.x": X0,
            "workers": K, "batch_per_worker": 1, "dtype": "float64", "optimizer": "SGD",
            "rate": "constant", "rate.lr": LR * K, "steps": samples // K, "schedule": "every",
            "snapshot_every": "100%", "evaluate_every": 0,
        }  # fmt: skip
        done = runs.sweep(f"K={K}", options, {"schedule.steps": list(HS)}, 2 if quick else SEEDS)
        found |= {f"{H}, {K}": each for H, each in values(done, _decay).items()}
    predicted = {f"{H}, {K}": [_predicted(H, K, samples)] for H in HS for K in KS}
    return {"decay": found, "predicted": predicted}


def _decay(run: Trajectory) -> float:
    mean = run.snapshot().mean
    return float(np.log(X0 / mean[: len(mean) // 2].mean()))


def _predicted(H: int, K: int, samples: int) -> float:
    """Return the decay of the Slow SDE."""
    spec = manifold(pairs=1)
    valley = Manifold(spec.hessian, spec.third, spec.covariance, spec.project)
    regime = Regime(K, K, LR * K, H, finite=True)
    path = euler_maruyama(valley, np.array([X0, 0.0]), regime, samples // K, n=1024, seed=None)
    return float(np.log(X0 / path.zeta[-1, 0]))


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    sgd, local = (_slopes(measured, H) for H in HS)
    said = [
        within("SGD: slope of log decay on log K", sgd, -0.1, 0.1, LOOKS),
        above(f"H = {HS[1]}: slope of log decay on log K > 0.5", local, 0.5, LOOKS),
    ]
    for key, decays in measured["decay"].items():
        H, K = key.split(", ")
        ratio = [decay / measured["predicted"][key][0] for decay in decays]
        said.append(within(f"decay / Slow SDE, H = {H}, K = {K}", ratio, 0.97, 1.03, LOOKS))
    return said


def _slopes(measured: Measured, H: int) -> list[float]:
    """Return d log decay / d log K of each seed."""
    rows = [np.log(measured["decay"][f"{H}, {K}"]) for K in KS]
    return [float(linregress(np.log(KS), seed).slope) for seed in np.transpose(rows)]


def draw(measured: Measured) -> Figure:
    """Draw the decay against K."""
    facts = ["learning rate ∝ K", "equal epochs", f"{SEEDS} seeds", "crosses: Slow SDE"]
    figure, (axes,) = panels(
        "Linear scaling: Local SGD drifts further with more workers, SGD does not",
        facts,
        ["decay log x(0) / x(end): the way to the flat minimum in equal epochs"],
    )
    looks = zip(("SGD", f"H = {HS[1]}"), (style.GREY, style.BLUE), HS, strict=True)
    lines = [(name, c, [measured["decay"][f"{H}, {K}"] for K in KS]) for name, c, H in looks]
    for H in HS:
        theory = [measured["predicted"][f"{H}, {K}"][0] for K in KS]
        axes.plot(KS, theory, "x", ms=9, mew=1.2, color=style.INK, zorder=3)
    axes.set_xlabel("workers K")
    named_lines(figure, axes, KS, lines, (0.62, 1.2), from_zero=True)
    return figure


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
