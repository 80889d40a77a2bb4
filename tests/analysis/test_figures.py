"""Every figure of every odd run: there, not blank, without a warning."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from hpc_localsgd.analysis import costs, curves
from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.spread import draw_spread
from hpc_localsgd.analysis.draw.time import draw_time
from hpc_localsgd.analysis.figures import FIGURES, draw_run
from hpc_localsgd.trajectory import Header, Trajectory, Writer

from .synthetic import synthetic

# Small where the size is not the point: drawing takes most of the time.
RUNS = {
    "post_local": {"steps": 600, "switch": 200},
    "post_local_many_rounds": {"steps": 1000, "switch": 100, "H": 4, "evaluations": 60},
    "gossip": {"H": 1, "steps": 300, "gossip": True},
    "all_one_step": {"H": 1, "steps": 200},
    "one_worker": {"K": 1, "spread": False, "steps": 300, "switch": 0},
    "sixty_four_workers": {"K": 64, "steps": 400, "switch": 100, "H": 16},
    "no_evaluation_yet": {"evaluations": 0, "steps": 200, "status": "stopped"},
    "no_loss_at_all": {"evaluations": 0, "train": False, "steps": 200},
    "one_round": {"steps": 8, "switch": 0, "evaluations": 1},
    "no_spread": {"spread": False, "steps": 200},
    "growing_H": {"grow": True, "steps": 600, "switch": 150, "H": 4},
}


def images(files):
    from matplotlib.image import imread

    return {file.name: imread(file)[..., :3] for file in files}


@pytest.mark.parametrize("name", RUNS)
def test_figures_of_odd_runs(tmp_path, name):
    run = synthetic(tmp_path, **RUNS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = draw_run(run, tmp_path / "figures")
    assert [file.name for file in files] == [f"{figure}.png" for figure in FIGURES]
    for figure, pixels in images(files).items():
        assert min(pixels.shape[:2]) > 250, figure
        assert 0.001 < (pixels.mean(axis=2) < 0.9).mean() < 0.7, figure  # ink, and paper


def test_thousands_of_rounds_are_drawn_with_few_points(tmp_path):
    with Writer(tmp_path, _header()) as writer:
        for s in range(20_000):
            row = {"compute_s": 0.1, "wait_s": 0.0, "transfer_s": 0.01, "payload_bytes": 8}
            writer.round(step_begin=2 * s, step_end=2 * s + 2, lr=0.1 / (1 + s), **row)
            writer.series("spread", 2 * s + 2, 1 + s % 7)
            writer.series("train/loss", 2 * s + 2, 1 / (1 + s))
    run = Trajectory(tmp_path)
    curve = curves.thinned(run.series("spread").step, run.series("spread").value)
    assert len(curve.x) <= curves.PIXELS
    assert (curve.low.min(), curve.high.max()) == (1, 7)
    files = draw_run(run, tmp_path, pdf=True)
    sizes = {file.name: file.stat().st_size for file in files}
    assert len(sizes) == 6 and max(sizes.values()) < 400_000, sizes


@pytest.mark.parametrize(("K", "why"), [(1, "one worker"), (2, "stayed together")])
def test_a_spread_of_nothing_is_not_enlarged(tmp_path, K, why):
    """One worker measures 0 at every exchange, in more rounds than can be told apart."""
    header = Header("seed: 0", "digits", "local_sgd()", "every(4)", "simulated", K=K, P=9, seed=0)
    row = {"lr": 0.1, "compute_s": 0.1, "wait_s": 0.0, "transfer_s": 0.0, "payload_bytes": 0}
    with Writer(tmp_path, header) as writer:
        for s in range(200):
            writer.round(step_begin=4 * s, step_end=4 * s + 4, **row)
            writer.series("spread", 4 * s + 4, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main, *strips = draw_spread(Trajectory(tmp_path)).axes
    assert len(strips) == 2  # learning rate and H, no zoom
    assert why in main.texts[0].get_text()


def test_only_the_communication_of_a_simulated_run_is_modelled(tmp_path):
    about = {"schedule": "every(4)", "world": "simulated(2)", "K": 2, "P": 9, "seed": 0}
    header = Header("seed: 0", "digits", "local_sgd()", **about, clock="modelled")
    row = {"lr": 0.1, "compute_s": 5.0, "wait_s": 0.0, "transfer_s": 1.0, "payload_bytes": 0}
    with Writer(tmp_path, header) as writer:
        writer.round(step_begin=0, step_end=4, **row)
    (axes,) = draw_time(Trajectory(tmp_path)).axes
    assert axes.get_xlabel() == "seconds (communication modelled)"
    *_, below = draw_course(Trajectory(tmp_path)).axes
    assert below.get_xlabel() == "seconds, the slowest worker (communication modelled)"


@pytest.mark.parametrize(
    ("lengths", "said"), [([4, 8, 8, 8, 8], "4-8"), ([8, 8, 3], "8"), ([8], "8"), ([2, 9], "2-9")]
)
def test_the_switch_is_labelled_with_every_length_behind_it(tmp_path, lengths, said):
    """Where most rounds were of the longest, the shorter ones went unsaid."""
    with Writer(tmp_path, _header()) as writer:
        t = 0
        for H in [1, 1, *lengths]:
            row = {"compute_s": 0.1, "wait_s": 0.0, "transfer_s": 0.01, "payload_bytes": 8}
            writer.round(step_begin=t, step_end=t + H, lr=0.1, **row)
            t += H
    panel = draw_accuracy(Trajectory(tmp_path)).axes[0]
    assert f"H = {said} →" in {text.get_text() for text in panel.texts}


def test_an_empty_run_is_drawn(tmp_path):
    Writer(tmp_path, _header()).close("stopped")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw_run(tmp_path, tmp_path)) == 3


def test_missing_and_infinite_values_are_left_out(tmp_path):
    with Writer(tmp_path, _header()) as writer:
        for s in range(20):
            bad = s in (3, 4, 19)
            nan = float("nan")
            writer.round(
                step_begin=4 * s,
                step_end=4 * s + 4,
                lr=nan if bad else 0.1,
                compute_s=[1.0, nan],
                wait_s=nan if bad else 0.1,
                transfer_s=nan,
                payload_bytes=8,
            )
            writer.series("spread", 4 * s + 4, nan if bad else 0.5)
            writer.series("train/loss", 4 * s + 4, [1.0, nan if bad else 2.0], dims="worker")
            writer.series("eval/test/loss", 4 * s + 4, float("inf") if bad else 1.0)
            writer.series("eval/test/accuracy", 4 * s + 4, nan)
        writer.close("diverged")
    run = Trajectory(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_run(run, tmp_path)
    assert curves.series_or_none(run, "eval/test/accuracy") is None
    assert len(curves.series_or_none(run, "eval/test/loss")) == 17
    assert len(curves.series_or_none(run, "train/loss")) == 20


def test_communication_time_stands_still_between_exchanges(tmp_path):
    run = synthetic(tmp_path, steps=40, switch=8, H=8, evaluations=2)
    spent = (run.rounds.wait_s + run.rounds.transfer_s).mean(axis=1)
    at = costs.communication_s(run, np.array([0, 1, 8, 12, 16, 40]))
    sums = [0, spent[0], spent[:8].sum(), spent[:8].sum(), spent[:9].sum(), spent.sum()]
    np.testing.assert_allclose(at, sums)
    assert curves.first_local_step(run) == 8


def test_smoothing_keeps_a_straight_line_straight():
    line = np.arange(50.0)
    np.testing.assert_allclose(curves.smoothed(line, 9), line)
    np.testing.assert_allclose(curves.smoothed(line, 1), line)


def test_drawing_leaves_the_callers_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    synthetic(tmp_path, steps=16, switch=0)
    draw_run(tmp_path, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys, hpc_localsgd.analysis.figures;"
        "assert not {'matplotlib', 'torch', 'mpi4py', 'horovod'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def _header():
    return Header("seed: 0", "digits", "local_sgd()", "every(4)", "simulated(2)", K=2, P=9, seed=0)
