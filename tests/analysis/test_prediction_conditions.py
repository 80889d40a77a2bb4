"""Where the Slow SDE's conditions do not hold there is a sentence and no curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import small_run

from hpc_localsgd.analysis.draw.slow_sde import draw_slow_sde, measured, told
from hpc_localsgd.analysis.slow_sde import Way, predict, way
from hpc_localsgd.analysis.slow_sde.conditions import far_start, foreign
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.schedules.rates import cosine
from hpc_localsgd.tasks.manifold import manifold
from hpc_localsgd.trajectory import Header, Trajectory, Writer

PLAIN = "batch_per_worker: 1\n"
STEPS = 400


def recorded(
    folder: Path,
    config: str = PLAIN,
    H: int = 4,
    K: int = 8,
    lr: object = 0.02,
    trace: object = (3.0, 2.5, 2.0),
    eigenvalues: object = None,
    loss: object = None,
) -> tuple[Trajectory, Trajectory]:
    """A run of 400 steps and the sharpness at its snapshots, at steps 0, 200 and 400."""
    said = ("valley", "LocalSGD", f"every({H})", f"simulated({K})")
    header = Header(config, *said, K=K, P=2, seed=1, steps=STEPS)
    rate = lr if callable(lr) else lambda t: lr
    nothing = {"compute_s": 0.0, "wait_s": 0.0, "transfer_s": 0.0, "payload_bytes": 0}
    with Writer(folder / "run", header) as writer:
        for begin in range(0, STEPS, H):
            writer.round(step_begin=begin, step_end=begin + H, lr=rate(begin), **nothing)
    with Writer(folder / "run" / "sharpness.h5", header) as writer:
        for i, step in enumerate((0, 200, 400)):
            values = [trace[i], 0.0] if eigenvalues is None else eigenvalues[i]  # type: ignore[index]
            writer.series("sharpness/trace", step, trace[i])  # type: ignore[index]
            writer.series("sharpness/eigenvalues", step, np.array(values), dims="eigen")
            if loss is not None:
                writer.series("sharpness/loss", step, loss[i])  # type: ignore[index]
    path = folder / "run"
    return Trajectory(path), Trajectory(path / "sharpness.h5", segments=False)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "optimizer: {class_path: torch.optim.SGD, init_args: {weight_decay: 1.0e-4}}",
            "a weight decay of 0.0001, where 0 is allowed",
        ),
        ("sampling: permutation", "--sampling permutation, where replacement is allowed"),
    ],
)
def test_weight_decay_and_samples_without_replacement_are_refused(
    tmp_path: Path, said: str, why: str
) -> None:
    run, sharpness = recorded(tmp_path, PLAIN + said + "\n")
    with pytest.raises(ValueError, match=why):
        way(run, sharpness)
    fine, its = recorded(tmp_path / "fine")
    with pytest.raises(ValueError, match=why):
        predict(run, way(fine, its), np.array([0, 400]))


def test_a_formula_draws_its_noise_anew_whatever_is_said_of_samples(tmp_path: Path) -> None:
    task = "task: {class_path: hpc_localsgd.tasks.manifold.manifold}\nsampling: permutation\n"
    assert not foreign(recorded(tmp_path, PLAIN + task)[0])
    without = "optimizer: {class_path: torch.optim.SGD, init_args: {weight_decay: 0.0}}\n"
    assert not foreign(recorded(tmp_path / "b", f"{PLAIN}{without}sampling: replacement\n")[0])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trace": (3.0, float("nan"), 2.0)}, "at step 200 a trace of nan"),
        ({"trace": (-0.5, 2.0, 1.0)}, "at step 0 a trace of -0.5, where it is positive"),
        (
            {"eigenvalues": [[3.0, 0.0], [4.0, 1.0], [2.0, 0.0]]},
            "at step 200 positive eigenvalues that sum to 5, where 2.75 is allowed",
        ),
        ({"loss": (1.6, 0.01, 0.012)}, "loss is 1.6 there and falls .* where 4 is allowed"),
        ({"lr": 0.7}, "learning rate x curvature is 2.1 .* where less than 2 is allowed"),
    ],
)
def test_a_way_that_is_not_near_minimisers_is_refused(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        way(*recorded(tmp_path, **changes))  # type: ignore[arg-type]


def test_another_run_with_too_large_steps_is_refused(tmp_path: Path) -> None:
    along = way(*recorded(tmp_path / "a"))
    run, _ = recorded(tmp_path / "b", lr=0.7)
    with pytest.raises(ValueError, match="at step 0 learning rate x curvature is 2.1"):
        predict(run, along, np.array([0, 400]))
    bad = Way(along.step, np.array([3.0, -1.0, 2.0]), along.eigenvalues, along.gone)
    with pytest.raises(ValueError, match="the path that is followed has at step 200 a trace of -1"):
        predict(recorded(tmp_path / "c")[0], bad, np.array([0, 400]))


@pytest.mark.parametrize(("y", "fast"), [(1.0, True), (0.0, False)])
def test_the_start_of_a_real_run_off_the_floor_is_told_from_one_on_it(y: float, fast: bool) -> None:
    """The valley itself: its loss at y = 1 is gone after a few steps, the theory's stays."""
    run = small_run(spec=manifold(pairs=64, y=y), K=4, batch=1, H=4, lr=0.05)
    task, losses, traces = run.task, [], []
    for t in range(600):
        if t == 4 and not fast:  # near the floor, where the noise has brought it
            losses, traces = [], []
        if t in (0, 4) or t % 200 == 199:
            mean = task.x.mean(0)
            losses.append(float(task.risk(mean)))  # type: ignore[attr-defined]
            traces.append(float((1 + mean[:64] ** 2).sum()))
        _, g = task.loss_and_grad(task.x, task.batch(run.world.local_workers, t))
        task.x.sub_(g, alpha=0.05)
        if t % 4 == 3:
            task.x[:] = task.x.mean(0)
    found = far_start(np.array(losses), np.full(len(losses), 0.05), np.array(traces))
    assert bool(found) == fast
    assert torch.isfinite(task.x).all()


def test_a_falling_rate_and_a_falling_trace_explain_a_falling_loss() -> None:
    loss, lr = np.array([8.0, 2.0, 0.5]), np.array([0.1, 0.05, 0.025])
    assert not far_start(loss, lr, np.array([4.0, 2.0, 1.0]))
    steep = far_start(loss * [8, 1, 1], lr * [1, 0.5, 0.5], np.full(3, 2.0))
    assert "falls 10.7 times further" in steep  # 64 / median(2 x 4, 0.5 x 8)


def test_the_rate_of_every_step_counts_and_not_that_of_the_rounds_first(tmp_path: Path) -> None:
    """One worker: H is nothing, so rounds of 1 and of 100 steps go the same way."""
    rate = cosine(lr=0.1, warmup=50, until=STEPS)
    init = "{lr: 0.1, warmup: 50, warmup_from: 0.0, floor: 0.0, until: 400}"
    text = f"{PLAIN}rate: {{class_path: hpc_localsgd.schedules.rates.cosine, init_args: {init}}}\n"
    gone = [way(*recorded(tmp_path / str(H), text, H=H, K=1, lr=rate)).gone for H in (1, 100)]
    np.testing.assert_allclose(gone[0], gone[1], rtol=1e-12)
    assert every(100)(0, 0.1) == 100 and gone[0][-1] > 0


def test_a_report_says_why_there_is_no_curve(tmp_path: Path) -> None:
    folders = []
    for name, loss in (("high", (1.6, 0.01, 0.01)), ("low", (0.01, 0.01, 0.01))):
        run, _ = recorded(tmp_path / name, loss=loss)
        folders.append(str(run.path.parent))
    assert report([*folders, f"--out={tmp_path / 'page'}", "--formats", "png"]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Not predicted" in page and "begins off the minimisers" in page
    assert not (tmp_path / "page" / "slow_sde.png").exists()


def test_a_run_without_a_prediction_is_left_out_of_the_figure(tmp_path: Path) -> None:
    runs = [(name, *recorded(tmp_path / name)) for name in ("a", "b")]
    steep = ("steep", recorded(tmp_path / "steep", lr=0.02)[0], runs[0][2])
    found = measured([*runs, steep])
    assert draw_slow_sde(found) is not None
    large, _ = recorded(tmp_path / "large", lr=0.9)
    one = found[0]
    assert isinstance(told(type(one)("large", large, one.way), one), str)
