"""Several runs in one picture, and their tables as files: nothing but what was recorded."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hpc_localsgd.analysis.compare import grouped_runs
from hpc_localsgd.analysis.compare.courses import (
    QUANTITIES,
    MeanCurve,
    Quantity,
    curve_of,
    recorded,
    values_of,
)
from hpc_localsgd.analysis.compare.draw_courses import _draw_course, draw_courses
from hpc_localsgd.analysis.compare.export import as_csv, as_latex, as_markdown
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.legend import look_of
from hpc_localsgd.analysis.compare.tables import tables
from hpc_localsgd.analysis.costs import SENT, SPENT, STEPS, Axis
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.trajectory import Header, Series, Writer

CONFIG = "schedule: {{class_path: hpc_localsgd.every, init_args: {{steps: {H}}}}}\nseed: {seed}\n"
BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}


def record(folder: Path, H: int, seed: int, *, gap: bool = False, clock: Any = "measured") -> str:
    """80 steps in rounds of H, evaluated every 10; values tell their run and step."""
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "mpi(2 x 1 workers)"}
    header = Header(CONFIG.format(H=H, seed=seed), **names, K=2, P=3, seed=seed, clock=clock)
    with Writer(folder, header) as writer:
        for begin in range(0, 80, H):
            row = {"compute_s": float(H), "wait_s": 0.0, "transfer_s": 1.0, "payload_bytes": 100.0}
            writer.round(step_begin=begin, step_end=begin + H, lr=0.1, **row)
            writer.series("spread", begin + H, 0.0 if H == 1 else H / (begin + H))
        for step in range(0, 81, 10):
            if gap and step in (30, 40, 50):
                continue
            writer.series("eval/test/accuracy", step, 0.1 if step == 0 else accuracy(H, seed, step))
        writer.close("complete")
    return str(folder)


def accuracy(H: int, seed: int, step: int) -> float:
    return 0.9 + step / 1000 - H / 1000 + seed / 100


@pytest.fixture
def groups(tmp_path: Path) -> list[SeedGroup]:
    """Two seeds at H = 1, three at H = 8, of which one was evaluated more rarely."""
    runs = [record(tmp_path / f"a{seed}", 1, seed) for seed in range(2)]
    runs += [record(tmp_path / f"b{seed}", 8, seed, gap=seed == 2) for seed in range(3)]
    return grouped_runs(open_runs(runs))


def test_a_course_is_the_mean_where_every_seed_has_a_value(groups: list[SeedGroup]) -> None:
    values = values_of(groups[1], BY_NAME["test accuracy"])
    assert values is not None and len(values.runs) == 3
    found = curve_of(values, STEPS)
    assert found.step.tolist() == [0, 10, 20, 60, 70, 80]
    expected = [[accuracy(8, seed, step) for seed in range(3)] for step in (10, 20, 60, 70, 80)]
    np.testing.assert_allclose(found.mean[1:], np.mean(expected, axis=1))
    np.testing.assert_allclose(found.deviation[1:], np.std(expected, axis=1, ddof=1))


def test_a_band_on_a_logarithmic_axis_ends_above_zero() -> None:
    """A deviation over seeds may exceed the mean: 4 +- 5 reaches from 16 / 9 to 9, not to -1."""
    axes = Figure().add_subplot()
    axes.set_yscale("log")
    x = np.arange(3)
    _draw_course(axes, MeanCurve(x, x.astype(float), np.full(3, 4.0), np.full(3, 5.0)), "A", 0)
    (band,) = axes.collections
    edges = np.asarray(band.get_paths()[0].vertices)[:, 1]
    np.testing.assert_allclose([edges.min(), edges.max()], [16 / 9, 9])


def test_rounds_that_grow_longer_are_no_gap(tmp_path: Path) -> None:
    """Losses of Post-local SGD are 1 step apart, then 8: the line goes on behind the switch."""
    header = Header(
        CONFIG.format(H=8, seed=0), "t", "a", "s", "mpi(2 x 1 workers)", K=2, P=3, seed=0
    )
    with Writer(tmp_path / "run", header) as writer:
        for begin, H in [*((i, 1) for i in range(40)), *((i, 8) for i in range(40, 80, 8))]:
            row = {"compute_s": 1.0, "wait_s": 0.0, "transfer_s": 1.0, "payload_bytes": 1.0}
            writer.round(step_begin=begin, step_end=begin + H, lr=0.1, **row)
            writer.series("train/loss", begin + H, np.full(2, 1.0), dims=("worker",))
        writer.close("complete")
    (group,) = grouped_runs(open_runs([str(tmp_path / "run")]))
    values = values_of(group, BY_NAME["training loss"])
    assert values is not None and list(curve_of(values, STEPS).breaks) == []


def test_a_line_is_broken_where_a_value_is_missing_and_a_value_alone_has_its_symbol() -> None:
    step = np.concatenate([np.arange(1.0, 41), np.arange(48.0, 81, 8)])
    for breaks, long in (([], [45]), ([20, 21], [20, 1, 24])):
        axes = Figure().add_subplot()
        _draw_course(axes, MeanCurve(step, step, step, np.full(45, np.nan), breaks), "A", 1)
        drawn = axes.get_lines()
        assert [len(line.get_xdata()) for line in drawn] == long
        assert all((len(line.get_xdata()) == 1) == (line.get_markevery() == 1) for line in drawn)


def test_bytes_and_seconds_are_those_spent_by_a_step(groups: list[SeedGroup]) -> None:
    parallel, local = ([course(group, axis) for axis in (SENT, SPENT)] for group in groups)
    np.testing.assert_allclose(parallel[0].x, 100 * parallel[0].step)
    np.testing.assert_allclose(parallel[1].x, 2 * parallel[1].step)
    np.testing.assert_allclose(local[0].x, 100 * (local[0].step // 8))
    np.testing.assert_allclose(local[1].x, 9 / 8 * local[1].step)


def course(group: SeedGroup, axis: Axis) -> MeanCurve:
    """The test accuracy of a group."""
    values = values_of(group, BY_NAME["test accuracy"])
    assert values is not None
    return curve_of(values, axis)


def lines(axes: Any) -> list[tuple[str, np.ndarray]]:
    return [(line.get_color(), np.asarray(line.get_xydata())) for line in axes.get_lines()]


def test_what_is_drawn_is_what_was_recorded(groups: list[SeedGroup]) -> None:
    figure = draw_courses(groups, recorded(groups), STEPS)
    assert figure is not None
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["test accuracy", "spread of the workers"]
    drawn = lines(panels["test accuracy"])
    assert [colour for colour, _ in drawn] == [look_of(0)["color"], *[look_of(1)["color"]] * 2]
    assert [xy[:, 0].tolist() for _, xy in drawn[1:]] == [[0, 10, 20], [60, 70, 80]]  # the gap
    (xy,) = (xy for _, xy in lines(panels["spread of the workers"]))  # equal workers have none
    np.testing.assert_allclose(xy[:, 1], 8 / np.arange(8, 81, 8))
    top = panels["test accuracy"].get_ylim()[1]
    assert accuracy(1, 1, 80) <= top <= 1.0
    assert any(
        "first values, from 10 %" in text.get_text() for text in panels["test accuracy"].texts
    )
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["A   schedule.steps 1   (2 seeds)", "B   schedule.steps 8   (3 seeds)"]


def test_a_band_is_one_deviation_wide(groups: list[SeedGroup]) -> None:
    figure = draw_courses(groups[:1], recorded(groups[:1]), STEPS)
    assert figure is not None
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    at_80 = np.unique(corners[corners[:, 0] == 80][:, 1].round(12))
    values = [accuracy(1, seed, 80) for seed in range(2)]
    middle, half = np.mean(values), np.std(values, ddof=1)
    np.testing.assert_allclose(at_80, [middle - half, middle + half])


def test_every_band_lies_inside_the_axes_of_a_share(groups: list[SeedGroup]) -> None:
    figure = draw_courses(groups, recorded(groups), STEPS)
    assert figure is not None
    values = [accuracy(1, seed, 80) for seed in range(2)]
    assert figure.axes[0].get_ylim()[1] >= np.mean(values) + np.std(values, ddof=1)


def test_of_several_values_at_one_step_the_last_counts(groups: list[SeedGroup]) -> None:
    twice = Series(np.array([4, 8, 8]), np.array([1.0, 2.0, 3.0]), "", (), "", "twice")
    values = values_of(groups[0], Quantity("twice", lambda source: twice))
    assert values is not None and values.step.tolist() == [4, 8]
    assert values.value.tolist() == [[1.0, 3.0]] * 2


def test_many_losses_of_batches_are_drawn_as_their_running_mean(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 1, 0)
    loss = np.random.default_rng(0).uniform(1, 2, 80)
    with Writer(
        path, Header(CONFIG, "t", "a", "s", "w", K=2, P=3, seed=0), mode="append"
    ) as writer:
        for step in range(80):
            writer.series("train/loss", step + 1, loss[step])
    groups = grouped_runs(open_runs([path]))
    figure = draw_courses(groups, recorded(groups), STEPS)
    assert figure is not None
    (axes,) = (a for a in figure.axes if a.get_title(loc="left").startswith("training loss"))
    assert axes.get_title(loc="left") == "training loss, running mean"
    ((_, xy),) = lines(axes)
    np.testing.assert_allclose(xy[1:-1, 1], (loss[:-2] + loss[1:-1] + loss[2:]) / 3)


def test_seconds_of_two_clocks_are_not_one_axis(tmp_path: Path) -> None:
    runs = [record(tmp_path / "a", 1, 0), record(tmp_path / "b", 8, 0, clock="modelled")]
    groups = grouped_runs(open_runs(runs))
    assert draw_courses(groups, recorded(groups), SPENT) is None
    assert draw_courses(groups, recorded(groups), SENT) is not None


def test_nothing_recorded_is_no_figure(tmp_path: Path) -> None:
    header = Header(CONFIG.format(H=1, seed=0), "t", "a", "s", "w", K=2, P=3, seed=0)
    with Writer(tmp_path / "a", header) as writer:
        writer.series("eval/test/accuracy", 1, 0.5)
    groups = grouped_runs(open_runs([str(tmp_path / "a")]))
    assert draw_courses(groups, recorded(groups), STEPS) is None


def test_the_csv_has_every_digit(groups: list[SeedGroup]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(groups, tables(groups)))))
    assert [row["configuration"] for row in rows] == ["A", "B"]
    assert [row["schedule.steps"] for row in rows] == ["1", "8"]
    assert [row["folders"] for row in rows] == ["a0 a1", "b0 b1 b2"]
    values = [accuracy(1, seed, 80) for seed in range(2)]
    assert float(rows[0]["test accuracy, mean"]) == float(np.mean(values))
    np.testing.assert_allclose(float(rows[0]["test accuracy, deviation"]), np.std(values, ddof=1))
    assert rows[0]["test accuracy, runs"] == "2" and rows[0]["test loss, mean"] == ""


def test_markdown_and_latex_hold_the_same_cells(groups: list[SeedGroup]) -> None:
    made = tables(groups)
    markdown, latex = as_markdown(made), as_latex(made)
    assert "| A | 1 | 2 seeds |" in markdown and "| B | 8 | 3 seeds |" in markdown
    assert r"A & 1 & 2 seeds \\" in latex and r"\toprule" in latex
    cell = made.measured[1][0][1]
    assert cell in markdown and cell.replace("%", r"\%").replace("±", r"$\pm$") in latex
    rows = [line for line in latex.splitlines() if " & " in line]
    assert {line.count(" & ") for line in rows[:3]} == {2}


def test_lines_are_told_apart_without_colour(tmp_path: Path) -> None:
    """A curve of hundreds of points has its symbol too, at some of them."""
    runs = []
    for H in (1, 2, 4):
        said = ("t", "a", "s", "mpi(2)")
        header = Header(CONFIG.format(H=H, seed=0), *said, K=2, P=3, seed=0)
        with Writer(tmp_path / f"{H}", header) as writer:
            for step in range(300):
                writer.series("eval/test/loss", step, 1 / (step + H))
            writer.close("complete")
        runs.append(str(tmp_path / f"{H}"))
    groups = grouped_runs(open_runs(runs))
    figure = draw_courses(groups, recorded(groups), STEPS)
    assert figure is not None
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    shown = {(line.get_marker(), line.get_markevery()) for line in lines}
    assert len({marker for marker, _ in shown}) == len(shown) == 3
    assert all(marker in "osD" and 5 < 300 / every < 20 for marker, (_, every) in shown)
    assert len({first for _, (first, _) in shown}) == 3, "not on each other"
