"""Numbers and panels of a page: planned and sent, who waited, densities, names and colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.costs import elapsed_s, sent_bytes
from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.sharpness import draw_sharpness, smoothed
from hpc_localsgd.analysis.figure_data import kept
from hpc_localsgd.analysis.panels import draw_panels
from hpc_localsgd.analysis.report.at_exchanges import alpha_panels
from hpc_localsgd.analysis.report.numbers import plan_rows, planned_bytes
from hpc_localsgd.analysis.report.render import render
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.analysis.waiting import waiting
from hpc_localsgd.trajectory import Header, Trajectory, Writer

from .read_pages import killed
from .synthetic import synthetic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def test_panels_are_named_in_plain_words_above_named_axes(tmp_path: Path) -> None:
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    with Writer(tmp_path, Header("seed: 0", **names, K=2, P=3, seed=0)) as writer:
        for name in ("effective_lr", "norm", "noise_scale", "of_next_year"):
            units = "samples" if name == "noise_scale" else "1"
            writer.series(f"gradient/{name}", 80, 1.0, units=units)
    run = Trajectory(tmp_path)
    figure = draw_panels(run, "", alpha_panels(run))
    shown = [axes for axes in figure.axes if axes.axison]
    assert {axes.get_title(loc="left"): axes.get_xlabel() for axes in shown} == {
        "effective learning rate": "",  # a panel stands below it
        "noise scale, samples": "global step",
        "gradient norm": "global step",
        "gradient/of_next_year": "global step",
    }


@pytest.mark.parametrize("draw", [draw_accuracy, draw_course])
def test_names_of_axes_are_clear_of_the_edge(
    tmp_path: Path, draw: Callable[[Trajectory], Figure]
) -> None:
    run = synthetic(tmp_path, steps=80, switch=20, evaluations=80)
    import matplotlib

    with matplotlib.rc_context(style.RC):
        assert draw(run).get_tightbbox().x0 > 0.15  # inches


def test_planned_numbers_are_those_of_the_schedule(tmp_path: Path) -> None:
    (source,) = open_runs([str(killed(tmp_path / "run"))])
    rows = {name: (planned, happened) for name, planned, happened, _ in plan_rows(source)}
    assert rows["steps"] == ("100", "24") and rows["rounds"] == ("25", "6")
    assert rows["epochs"] == ("20", "4.8") and rows["rounds up to there"] == ("6", "6")
    assert not isinstance(source.plan, str)
    assert planned_bytes(source.run, source.plan) == 25 * 80
    # Float64: ten parameters are 80 bytes, at each of a hundred steps.
    assert rows["parallel SGD would send"] == ("8 kB", "1.92 kB")


def test_who_waits_for_whom(tmp_path: Path) -> None:
    found = waiting(Trajectory(killed(tmp_path / "run")))
    assert found.names == ("rank 0 (workers 0-1)", "rank 1 (workers 2-3)")
    assert found.last.tolist() == [1] * 6 and found.stragglers() == [1]
    # Six rounds in which rank 0 waited 0.5 s, so the mean rank 0.25 s.
    np.testing.assert_allclose(found.caused_s, [0, 6 * 0.25])
    np.testing.assert_allclose(found.share, 0.5 / (2.5 + 0.5 + 0.2))


@pytest.mark.parametrize(("ranks", "known"), [(2, True), (0, False), (5, False)])
def test_workers_of_unequal_ranks_arrive_together(tmp_path: Path, ranks: int, known: bool) -> None:
    """Of three workers on two ranks the second one had never been the last, and caused nothing."""
    world = f"horovod(3 on {ranks} ranks, workers, cpu, MPI)"
    header = Header("seed: 0", "t", "LocalSGD", "every(2)", world, K=3, P=3, seed=0)
    with Writer(tmp_path, header) as writer:
        for s in range(4):
            row = {"lr": 0.1, "transfer_s": 0.1, "payload_bytes": 8}
            times = {"compute_s": [1.5, 1.5, 1.0], "wait_s": [0.0, 0.0, 0.5]}
            writer.round(step_begin=2 * s, step_end=2 * s + 2, **row, **times)
    found = waiting(Trajectory(tmp_path))
    names = ("rank 0 (workers 0-1)", "rank 1") if known else tuple(f"worker {k}" for k in range(3))
    assert found.names == names
    if known:
        assert found.last.tolist() == [0] * 4 and found.stragglers() == [0]
        np.testing.assert_allclose(found.compute_s, [[1.5, 1.0]] * 4)


def test_even_ranks_have_no_straggler(tmp_path: Path) -> None:
    run = synthetic(tmp_path, steps=400, switch=400, H=1)
    even = waiting(run)
    quick = np.random.default_rng(0).permuted(even.wait_s, axis=1)  # anybody can be the last
    found = type(even)(even.names, even.compute_s, quick, even.transfer_s)
    assert found.stragglers() == [] and "by all ranks in turn" in found.sentence()


def test_bytes_and_seconds_of_a_step(tmp_path: Path) -> None:
    run = Trajectory(killed(tmp_path / "run"))
    np.testing.assert_allclose(sent_bytes(run, np.array([0, 3, 4, 24])), [0, 0, 80, 480])
    # A round is 1.6 s, and half of it after half of its steps.
    np.testing.assert_allclose(elapsed_s(run, np.array([0, 2, 4, 24])), [0, 0.8, 1.6, 9.6])


def test_the_density_integrates_to_one() -> None:
    random = np.random.default_rng(0)
    nodes, weights = random.normal(size=(3, 10)), random.dirichlet(np.ones(10), 3)
    grid, density = smoothed(nodes, weights)
    assert abs(np.trapezoid(density, grid) - 1) < 1e-3


def test_of_the_workers_own_eigenvalues_the_largest_are_shown(tmp_path: Path) -> None:
    """A line was the mean of all ten of every worker, in a band from the least to the largest."""
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    with Writer(tmp_path, Header("seed: 0", **names, K=2, P=3, seed=0)) as writer:
        for step in (0, 8):
            values = np.array([[5.0, 1.0, 0.5], [7.0 + step, 2.0, 0.1]])
            writer.series("sharpness/workers/eigenvalues", step, values, dims=("worker", "i"))
    figure = draw_sharpness(Trajectory(tmp_path), [Trajectory(tmp_path)])
    assert figure is not None
    (panel,) = [axes for axes in figure.axes if axes.axison]
    assert panel.get_title(loc="left") == "largest eigenvalue at the workers' own models"
    assert [line.y.tolist() for line in kept(panel)] == [[5.0, 5.0], [7.0, 15.0]]
    assert panel.lines[0].get_ydata().tolist() == [6.0, 10.0]


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_paper_in_both_schemes(scheme: str) -> None:
    of_scheme = render("style.css").split(":root {")[1 if scheme == "light" else 2].split("}")[0]
    colour = dict(re.findall(r"--(\w+): (#\w{6})", of_scheme))
    for name in ("ink", "quiet", "link", "alarm"):
        for below in ("paper", "code") if name in ("ink", "link") else ("paper",):
            light, dark = sorted((luminance(colour[name]), luminance(colour[below])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, name, below)
