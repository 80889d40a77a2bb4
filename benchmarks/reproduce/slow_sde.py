"""Local SGD drifts up to K times faster along the minimisers; its diffusion is that of SGD.

python benchmarks/reproduce/slow_sde.py [--quick]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.claim import Claim, Experiment, Measured, Statement, above, within
from harness.draw import panels, plain_log
from harness.main import main
from harness.runs import Runs, values
from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.slow_sde import Manifold, Regime, euler_maruyama
from hpc_localsgd.tasks.manifold import manifold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

K, LR, STEPS, PAIRS, X0 = 8, 0.02, 2048, 256, 1.5
HS, WALKS = (1, 4, 16, 64, 512), (1, 16, 512)
SEEDS, LOOKS = 5, len(HS) + len(WALKS) + 1
CLAIM = Claim(
    number=2,
    name="slow_sde",
    title="The drift of Local SGD is up to K times that of SGD, its diffusion the same",
    says="Along a manifold of minimisers, rounds of H local steps make the drift towards "
    "flat minima stronger, by up to the factor K, and leave the diffusion as it is; the Slow "
    "SDE predicts both.",
    source="Gu et al., Why (and When) does Local SGD Generalize Better than SGD?, ICLR 2023, "
    "arXiv:2303.01215, Theorem 3.3",
    setup=f"The valley L = (1 + x^2) y^2 / 2 with label noise (`--task manifold`), {PAIRS} "
    f"copies a run, K = {K} workers of batch 1, learning rate {LR}, {STEPS:,} steps, H of "
    f"{HS}, {SEEDS} seeds. Drift: from x = 1.5, without noise along the valley. Diffusion: "
    "from x = 0 with noise 1 along the valley too, the sum of squared moves of x over parts "
    "of 16 steps.",
    deviation="The paper proves it for any manifold in the limit of small rates, and shows "
    "it on images; here is one manifold, and the prediction keeps what is of first order in "
    "the rate (`Regime(finite=True)`). The one curved direction makes it exact but for "
    "fluctuations.",
    must_see="For every H the decay log x(0) / x(T) is within 3 % of the Slow SDE's, all "
    "intervals inside; at H = 512 it is more than 7 times that of SGD; for every H the "
    "diffusion is within 3 % of noise^2 / B.",
    refuted_by="A decay outside of that for some H, or a diffusion that changes with H.",
)


def measure(runs: Runs, quick: bool) -> Measured:
    """Do the runs; gives decays, their predictions and the diffusion."""
    common: dict[str, Any] = {
        "task": "manifold", "task.pairs": 16 if quick else PAIRS, "task.y": 0, "workers": K,
        "batch_per_worker": 1, "dtype": "float64", "optimizer": "SGD", "rate": "constant",
        "rate.lr": LR, "steps": STEPS // 4 if quick else STEPS, "schedule": "every",
        "snapshot_every": 16, "evaluate_every": 0,
    }  # fmt: skip
    seeds = 2 if quick else SEEDS
    drift = runs.sweep("drift", {**common, "task.x": X0}, {"schedule.steps": list(HS)}, seeds)
    walking = {**common, "task.x": 0, "task.tangent": 1}
    walk = runs.sweep("diffusion", walking, {"schedule.steps": list(WALKS)}, seeds)
    course = {
        label: np.mean([_xs(run).mean(1) for run in same], axis=0).tolist()
        for label, same in drift.items()
    }
    steps = [int(t) for t in drift["1"][0].snapshot_steps]
    return {
        "step": {"all": [float(t) for t in steps]},
        "course": course,
        "predicted course": {str(H): _predicted(H, steps) for H in HS},
        "decay": values(drift, lambda run: float(np.log(X0 / _xs(run)[-1].mean()))),
        "diffusion": values(walk, _diffusion),
        "variance": values(walk, lambda run: float(_xs(run)[-1].var())),
    }


def _xs(run: Trajectory) -> np.ndarray:
    """Return the places along the valleys at all snapshots, [n, pairs]."""
    means = np.stack([run.snapshot(int(t)).mean for t in run.snapshot_steps])
    return np.asarray(means[:, : means.shape[1] // 2], dtype=float)


def _diffusion(run: Trajectory) -> float:
    """Return the sum of squared moves of x, in units of lr^2 steps / B."""
    moves = np.diff(_xs(run), axis=0)
    spent = LR**2 * int(run.snapshot_steps[-1]) / K
    return float(np.square(moves).sum(0).mean() / spent)


def _predicted(H: int, steps: list[int]) -> list[float]:
    """Return x of the Slow SDE at some steps; label noise has no part along the valley."""
    spec = manifold(pairs=1)
    valley = Manifold(spec.hessian, spec.third, spec.covariance, spec.project)
    regime = Regime(K, K, LR, H, finite=True)
    path = euler_maruyama(valley, np.array([X0, 0.0]), regime, steps[-1], n=1024, seed=None)
    return [float(x) for x in np.interp(steps, path.step, path.zeta[:, 0])]


def judge(measured: Measured) -> list[Statement]:
    """Decide what was predicted."""
    decay, said = measured["decay"], []
    for H in HS:
        theory = float(np.log(X0 / measured["predicted course"][str(H)][-1]))
        ratio = [found / theory for found in decay[str(H)]]
        said.append(within(f"decay / Slow SDE, H = {H}", ratio, 0.97, 1.03, LOOKS))
    more = np.divide(decay[str(HS[-1])], decay["1"])
    said.append(above(f"decay at H = {HS[-1]} > 7 x that of H = 1", more.tolist(), 7, LOOKS))
    for H in WALKS:
        name = f"diffusion / (noise^2 / B), H = {H}"
        said.append(within(name, measured["diffusion"][str(H)], 0.97, 1.03, LOOKS))
    return said


def draw(measured: Measured) -> Figure:
    """Draw the way to the flat minimum, and drift and diffusion against H."""
    facts = [f"K = {K}", f"learning rate {LR}", "dots: experiment", "blue lines: Slow SDE"]
    titles = ("distance x from the flattest minimiser", "drift / that of H = 1")
    figure, (left, middle, right) = panels(
        "Drift up to K times, diffusion unchanged", facts, (*titles, "diffusion / (noise² / B)")
    )
    _draw_course(left, measured)
    base = float(np.mean(measured["decay"]["1"]))
    theory = [np.log(X0 / measured["predicted course"][str(H)][-1]) for H in HS]
    middle.plot(HS, np.array(theory) / theory[0], color=style.BLUE)
    for H in HS:
        found = np.array(measured["decay"][str(H)]) / base
        middle.plot([H] * len(found), found, "o", ms=3.5, color=style.INK)
    middle.axhline(K, color=style.GREY, lw=1, ls=":")
    middle.text(1, K + 0.1, "K", color=style.GREY, va="bottom")
    middle.set(xlabel="H", ylim=(0, K + 1))
    plain_log(middle, HS)
    right.axhline(1, color=style.BLUE)
    for H in WALKS:
        walked = measured["diffusion"][str(H)]
        right.plot([H] * len(walked), walked, "o", ms=3.5, color=style.INK)
    right.set(xlabel="H", ylim=(0, 1.5))
    plain_log(right, WALKS)
    return figure


def _draw_course(axes: Axes, measured: Measured) -> None:
    steps = measured["step"]["all"]
    ends = []
    for H in HS:
        axes.plot(steps, measured["predicted course"][str(H)], color=style.BLUE, lw=1)
        course = measured["course"][str(H)]
        axes.plot(steps[::8], course[::8], "o", ms=2.5, color=style.INK)
        ends.append((course[-1], f"H = {H}" if H == 1 else f"{H}", style.GREY))
    axes.set_ylim(0, 1.6)
    style.step_axis(axes, int(steps[-1]))
    axes.set_xticks([0, steps[-1] // 2, steps[-1]])
    end_labels(axes, ends)


EXPERIMENT = Experiment(CLAIM, measure, judge, draw)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
