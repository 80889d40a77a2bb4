"""The figure and the groups of a comparison: what a reader may take from them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hpc_localsgd.analysis.compare import differences, grouped_runs, summary
from hpc_localsgd.analysis.compare.draw import draw_front
from hpc_localsgd.analysis.compare.groups import plain
from hpc_localsgd.analysis.compare.legend import MARKERS
from hpc_localsgd.analysis.compare.measures import ACCURACY
from hpc_localsgd.analysis.report.source import open_runs

from .test_compare import record


def figure_of(runs: list[str]) -> Any:
    figure = draw_front(grouped_runs(open_runs(runs)))
    assert figure is not None
    figure.canvas.draw()
    return figure


def several(folder: Path, accuracies: list[float], sent: list[float]) -> list[str]:
    return [
        record(folder / str(i), a, momentum=0.1 + i / 100, sent=s)
        for i, (a, s) in enumerate(zip(accuracies, sent, strict=True))
    ]


@pytest.mark.parametrize("best", [1.0, 0.998, 0.5])
def test_an_accuracy_axis_ends_at_a_hundred_percent(tmp_path: Path, best: float) -> None:
    runs = several(tmp_path, [best, best - 0.04], [10, 20])
    runs.append(record(tmp_path / "seed", best - 0.2, momentum=0.1, seed=1))  # a long bar
    for axes in figure_of(runs).axes:
        low, high = axes.get_ylim()
        assert 0 <= low < best - 0.1 and best <= high <= 1.0


def test_labels_of_equal_points_are_written_once(tmp_path: Path) -> None:
    runs = several(tmp_path, [0.9, 0.9, 0.9, 0.7], [10, 10, 10, 40])
    for axes in figure_of(runs).axes[:1]:
        texts = [t for t in axes.texts if t.get_text()]
        assert sorted(t.get_text() for t in texts) == ["A, B, C", "D"]


def test_no_two_labels_overlap(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    runs = several(
        tmp_path, (0.9 + 0.01 * draw.random(14)).tolist(), (50 + 10 * draw.random(14)).tolist()
    )
    figure = figure_of(runs)
    axes = figure.axes[0]
    boxes = [t.get_window_extent() for t in axes.texts]
    assert sum(len(t.get_text().split(", ")) for t in axes.texts) == 14
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_a_configuration_has_one_symbol_in_all_panels(tmp_path: Path) -> None:
    """Also one that is on the front against bytes and not against seconds."""
    runs = several(tmp_path, [0.9, 0.8, 0.95, 0.7], [10, 5, 10, 40])
    looks = []
    for axes in figure_of(runs).axes:
        points = [line for line in axes.lines if line.get_marker() in set(MARKERS)]
        looks.append(
            [(p.get_marker(), to_hex(p.get_color()), float(p.get_ydata()[0])) for p in points]
        )
    assert looks[0] == looks[1] and len({look[:2] for look in looks[0]}) == 4


def test_seconds_that_were_predicted_are_called_so(tmp_path: Path) -> None:
    figure = figure_of([record(tmp_path, 0.9, clock="modelled")])
    assert figure.axes[1].get_xlabel() == "seconds waiting and transferring, mean worker (modelled)"


def test_the_front_claims_nothing_between_its_points(tmp_path: Path) -> None:
    runs = several(tmp_path, [0.7, 0.9], [10, 20])
    line = figure_of(runs).axes[0].lines[0]
    assert line.get_drawstyle() == "steps-post"
    assert line.get_ydata().tolist() == [0.7, 0.9]


def test_the_front_does_not_fall_among_methods_of_one_cost(tmp_path: Path) -> None:
    runs = several(tmp_path, [0.9, 0.86, 0.99], [10, 10, 20])
    runs += [record(tmp_path / "seed", 0.8, momentum=0.1, sent=10, seed=1)]  # 0.85, off by 0.07
    line = figure_of(runs).axes[0].lines[0]
    assert line.get_ydata().tolist() == [0.86, 0.86, 0.99]


DEFAULT = "hpc_localsgd.schedules.local_steps.every"


def test_a_default_is_shown_like_what_was_typed(tmp_path: Path) -> None:
    """The same class by two paths, the same number in two spellings: one configuration."""
    same = [
        {"schedule": DEFAULT, "arguments": "steps: 4", "momentum": 0.9},
        {"schedule": "hpc_localsgd.every", "arguments": "steps: 4.0", "momentum": "0.90"},
        {"schedule": "hpc_localsgd.every", "arguments": "steps: '4'", "momentum": "9.0e-1"},
    ]
    runs = [record(tmp_path / str(i), 0.9, **said) for i, said in enumerate(same)]
    assert [len(g.runs) for g in grouped_runs(open_runs(runs))] == [3]
    runs.append(record(tmp_path / "other", 0.9, arguments="steps: 5", schedule=DEFAULT))
    assert differences(grouped_runs(open_runs(runs))) == {"schedule.steps": ["4", "5"]}


def test_none_and_zero_are_values(tmp_path: Path) -> None:
    runs = [
        record(tmp_path / str(i), 0.9, arguments=f"steps: 4, until: {until}")
        for i, until in enumerate(("null", "0", "false", "3"))
    ]
    found = differences(grouped_runs(open_runs(runs)))
    assert found == {"schedule.until": ["none", "0", "False", "3"]}
    others = [
        record(tmp_path / "a", 0.9, schedule="my.own.every", arguments="steps: 0"),
        record(tmp_path / "b", 0.9, schedule="my.other.every", arguments="steps: 4"),
    ]
    assert differences(grouped_runs(open_runs(others)))["schedule"] == [
        "every(steps=0)",
        "every(steps=4)",
    ]


def test_classes_of_ones_own_are_told_apart_by_their_whole_path() -> None:
    assert plain({"class_path": "a.b.C"}) != plain({"class_path": "a.c.C"})
    assert plain({"class_path": "torch.optim.SGD"}) == plain({"class_path": "torch.optim.sgd.SGD"})


def test_a_last_evaluation_that_failed_is_not_replaced_by_an_earlier_one(tmp_path: Path) -> None:
    from hpc_localsgd.trajectory import Header, Writer

    path = record(tmp_path / "a", 0.9)
    said = ("", "t", "LocalSGD", "s", "mpi(2 x 1 workers)")
    with Writer(path, Header(*said, K=2, P=3, seed=0), mode="append") as writer:
        writer.series("eval/test/accuracy", 44, float("nan"))
    (group,) = grouped_runs(open_runs([path]))
    assert np.isnan(summary(group, ACCURACY).mean)
