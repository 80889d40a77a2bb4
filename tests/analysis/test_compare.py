"""Runs side by side: groups, deviations over seeds, the Pareto front."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_localsgd.analysis.compare import (
    MEASURES,
    Summary,
    differences,
    front,
    grouped_runs,
    summary,
    uncertainty,
)
from hpc_localsgd.analysis.compare.draw import draw_front
from hpc_localsgd.analysis.compare.measures import told
from hpc_localsgd.analysis.compare.page import comparison, terminal
from hpc_localsgd.analysis.compare.tables import tables
from hpc_localsgd.analysis.compare.two_way import two_way
from hpc_localsgd.analysis.report.blocks import Grid
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands.compare import main
from hpc_localsgd.trajectory import Header, Trajectory, Writer

CONFIG = """
algorithm: {{class_path: hpc_localsgd.LocalSGD, init_args: {{average: gradients}}}}
schedule: {{class_path: {schedule}, init_args: {{{arguments}}}}}
optimizer: {{class_path: torch.optim.SGD, init_args: {{momentum: {momentum}}}}}
workers: null
seed: {seed}
"""

HEADER = {"config": "", "task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
HEADER |= {"K": 2, "P": 3, "seed": 0}


def record(
    folder: Path,
    accuracy: float,
    *,
    status: str = "complete",
    sent: float = 100.0,
    samples: int = 0,
    **said: Any,
) -> str:
    """A run of ten rounds with one evaluation."""
    given = {"schedule": "hpc_localsgd.every", "arguments": "steps: 4", "momentum": 0.9, "seed": 0}
    text = CONFIG.format(**{**given, **said})
    names = {"task": "t", "algorithm": "LocalSGD", "schedule": "s", "world": "mpi(2 x 1 workers)"}
    seed, clock = int(said.get("seed", 0)), said.pop("clock", "measured")
    writer = Writer(folder, Header(text, **names, K=2, P=3, seed=seed, clock=clock))
    for s in range(10):
        row = {"compute_s": 1.0, "wait_s": [0.5, 0.0], "transfer_s": 0.1, "payload_bytes": sent}
        writer.round(step_begin=4 * s, step_end=4 * s + 4, lr=0.1, **row)
    writer.series("eval/test/accuracy", 40, accuracy, samples=samples)
    writer.close(status)
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three seeds of one configuration, one of them stopped; another schedule; another momentum."""
    qsr = {"schedule": "hpc_localsgd.qsr", "arguments": "alpha: 0.2"}
    return [
        record(tmp_path / "a0", 0.90, seed=0),
        record(tmp_path / "b", 0.95, **qsr, sent=50.0),
        record(tmp_path / "a1", 0.94, seed=1),
        record(tmp_path / "a2", 0.10, seed=2, status="stopped"),
        record(tmp_path / "c", 0.96, momentum=0.5),
    ]


def test_seeds_are_one_group_and_only_what_differs_is_shown(runs: list[str]) -> None:
    groups = grouped_runs(open_runs(runs))
    assert [[s.name for s in g.runs] for g in groups] == [["a0", "a1", "a2"], ["b"], ["c"]]
    assert groups[0].standing == "2 seeds, 1 stopped"
    assert differences(groups) == {
        "schedule": ["every(steps=4)", "qsr(alpha=0.2)", "every(steps=4)"],
        "optimizer.momentum": ["0.9", "0.9", "0.5"],
    }
    assert differences(groups[:1]) == {}


def test_mean_and_deviation_are_over_the_complete_runs(runs: list[str]) -> None:
    groups = grouped_runs(open_runs(runs))
    named = {measure.name: measure for measure in MEASURES}
    found = summary(groups[0], named["test accuracy"])
    np.testing.assert_allclose(found.mean, 0.92)
    np.testing.assert_allclose(found.deviation, np.std([0.90, 0.94], ddof=1))
    assert summary(groups[0], named["sent by a worker"]).deviation == 0
    np.testing.assert_allclose(summary(groups[1], named["communication"]).mean, 10 * 0.35)
    np.testing.assert_allclose(summary(groups[1], named["training"]).mean, 10 * 1.6)
    assert math.isnan(summary(groups[1], named["test accuracy"]).deviation)
    assert summary(groups[1], named["trace of the Hessian"]).count == 0


def test_means_of_few_rounds_keep_their_digits() -> None:
    (rounds,) = [m for m in MEASURES if m.name == "rounds"]
    shown = [told(Summary(*found, 5), rounds) for found in ((10.4, 0.55), (312.2, 0.45), (7, 0))]
    assert shown == ["10.4 ± 0.55", "312 ± 0.45", "7"]


def test_a_mean_says_of_how_many_runs_it_is_where_others_do_not_have_it(tmp_path: Path) -> None:
    """One seed of three with a sharpness gave the number of all three."""
    runs = [record(tmp_path / f"{i}", (0.9, 0.9, math.nan)[i], seed=i) for i in range(3)]
    with Writer(tmp_path / "0" / "sharpness.h5", Header(**HEADER)) as writer:
        writer.series("sharpness/trace", 40, 2.5)
    made = tables(grouped_runs(open_runs(runs)))
    said = dict(zip(made.measured[0], made.measured[1][0], strict=True))
    assert said["test accuracy"] == "90.00 % (2 of 3)" and said["rounds"] == "10"
    assert said["trace of the Hessian"] == "2.5 (1 of 3)"


def test_curvatures_of_other_moments_are_not_compared(tmp_path: Path) -> None:
    runs = [record(tmp_path / "a", 0.9), record(tmp_path / "b", 0.9, momentum=0.5)]
    for run, steps, samples in ((runs[0], (20, 40), 64), (runs[1], (20,), 64)):
        with Writer(run, Header(**HEADER), mode="append") as writer:
            for step in (20, 40):
                writer.snapshot(step, np.zeros(3))
        how = f"sharpness: {{samples: {samples}, seed: 0}}"
        with Writer(Path(run) / "sharpness.h5", Header(**{**HEADER, "config": how})) as writer:
            for step in steps:
                writer.series("sharpness/eigenvalues", step, np.ones(2) * step, dims="eigenvalue")
    groups = grouped_runs(open_runs(runs))
    (sharpest,) = [m for m in MEASURES if m.name == "largest eigenvalue"]
    assert summary(groups[0], sharpest).mean == 40 and math.isnan(summary(groups[1], sharpest).mean)
    assert any("of b was not measured at its last" in note for note in tables(groups).notes)


def test_the_front_is_what_nothing_is_cheaper_and_better_than() -> None:
    nan = float("nan")
    cost, gain = [1, 2, 3, 2, 0.5, nan], [0.5, 0.9, 0.8, 0.9, 0.1, 1.0]
    assert front(cost, gain) == [4, 0, 1, 3]
    assert front([], []) == [] and front([nan], [1.0]) == []


def test_the_front_against_trying_everything() -> None:
    random = np.random.default_rng(0)
    cost, gain = random.integers(0, 8, 40), random.integers(0, 8, 40)
    kept = set(front(cost.tolist(), gain.tolist()))
    for i in range(40):
        better = (cost <= cost[i]) & (gain >= gain[i]) & ((cost < cost[i]) | (gain > gain[i]))
        assert (i in kept) == (not better.any())


def test_a_difference_within_the_deviation_is_no_front() -> None:
    cost, gain = [1.0, 2.0, 3.0, 3.0], [0.90, 0.905, 0.93, 0.929]
    assert front(cost, gain) == [0, 1, 2]
    assert front(cost, gain, [0.01, 0.0, math.nan, 0.0]) == [0, 2]
    assert front(cost, gain, [0.01, 0.0, 0.002, 0.0]) == [0, 2, 3]  # equal costs, equal gains
    assert front(cost, gain, [0.05] * 4) == [0]


def test_what_is_as_good_as_the_best_at_one_cost_is_no_lower_bar_for_what_costs_more() -> None:
    """Methods of one H send as much: the last of them was what the next was compared with."""
    cost, gain, noise = [1.0, 1.0, 1.0, 2.0], [0.90, 0.86, 0.82, 0.92], [0.05, 0.05, 0.05, 0.01]
    assert front(cost, gain, noise) == [0, 1]


def test_what_diverged_is_on_no_front(tmp_path: Path) -> None:
    """It sent least, as it ended first, and so it was."""
    runs = [
        record(tmp_path / "a", 0.9),
        record(tmp_path / "b", 0.1, momentum=0.5, sent=10.0, status="diverged"),
    ]
    groups = grouped_runs(open_runs(runs))
    made = tables(groups)
    assert all(letters == ["A"] for letters in made.fronts.values())
    assert "What diverged is on no front: B." in made.notes
    figure = draw_front(groups)
    assert figure is not None and figure.axes[0].lines[0].get_ydata().tolist() == [0.9]


def test_seconds_of_two_clocks_have_no_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        record(tmp_path / "a", 0.9),
        record(tmp_path / "b", 0.95, momentum=0.5, clock="modelled"),
    ]
    assert main(runs) == 0
    said = capsys.readouterr().out
    assert "against bytes sent by a worker: B" in said and "against seconds" not in said
    assert "do not compare these" in said
    figure = draw_front(grouped_runs(open_runs(runs)))
    assert figure is not None and len(figure.axes) == 1


def test_the_command(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*runs, f"--out={out}"]) == 0
    text = capsys.readouterr().out
    for words in ("92.00 % ± 2.83 %", "2 seeds, 1 stopped", "Only complete runs count: A"):
        assert words in text, text
    assert "Pareto front of accuracy against bytes sent by a worker: B, C" in text
    narrow = terminal(open_runs(runs), 60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert all(cell in narrow for cell in ("92.00 % ± 2.83 %", "2 seeds, 1 stopped"))
    assert "wall time" in text
    kinds = ("html", "csv", "md", "tex")
    tables = {f"compare.{kind}" for kind in kinds}
    assert {file.name for file in out.iterdir()} == {*tables, "front.png", "front.pdf", "front.csv"}
    assert "optimizer.momentum" in (out / "compare.html").read_text()
    assert main([runs[0], str(tmp_path / "nothing")]) == 2
    assert "no such trajectory" in capsys.readouterr().err


def test_one_run_is_enough_and_one_without_accuracy_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([record(tmp_path / "a", float("nan"))]) == 0
    assert "Pareto" not in capsys.readouterr().out


def test_a_run_that_is_given_twice_is_no_second_seed(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(runs[0])
    for again in (runs[0], str(Trajectory(runs[0]).path), str(link)):
        assert main([runs[0], runs[1], again]) == 2
        assert f"{again} is given twice: leave it out once" in capsys.readouterr().err


def test_a_difference_within_the_error_of_the_test_set_is_no_front(tmp_path: Path) -> None:
    """Two configurations, a seed each, the dearer one 1 % better: 100 samples cannot tell."""
    for samples, letters in ((100, ["A"]), (100_000, ["A", "B"]), (0, ["A", "B"])):
        of = tmp_path / str(samples)
        cheap = record(of / "a", 0.90, samples=samples)
        dear = record(of / "b", 0.91, momentum=0.5, sent=200.0, samples=samples)
        groups = grouped_runs(open_runs([cheap, dear]))
        off = math.sqrt(0.9 * 0.1 / samples) if samples else 0.0
        np.testing.assert_allclose(uncertainty(groups[0]), off)
        assert tables(groups).fronts["sent by a worker"] == letters
        figure = draw_front(groups)
        assert figure is not None
        pale = figure.axes[0].lines[0].get_xdata()
        assert len(np.atleast_1d(pale)) == len(letters)


def test_the_larger_of_both_errors_counts(tmp_path: Path) -> None:
    runs = [record(tmp_path / f"{i}", a, seed=i, samples=25) for i, a in enumerate((0.8, 0.81))]
    np.testing.assert_allclose(
        uncertainty(grouped_runs(open_runs(runs))[0]), math.sqrt(0.805 * 0.195 / 25)
    )
    runs = [record(tmp_path / f"far{i}", a, seed=i, samples=25) for i, a in enumerate((0.5, 0.9))]
    np.testing.assert_allclose(
        uncertainty(grouped_runs(open_runs(runs))[0]), np.std([0.5, 0.9], ddof=1)
    )


def test_methods_against_rates_are_a_table_of_two_ways(tmp_path: Path) -> None:
    rate = "}}\nrate: {class_path: hpc_localsgd.constant, init_args: {lr: "
    paths = []
    for H, lr, accuracy in ((4, 0.1, 0.9), (4, 0.02, 0.7), (16, 0.1, 0.6)):
        for seed in (0, 1):
            folder, text = tmp_path / f"{H}-{lr}-{seed}", f"steps: {H}{rate}{lr}"
            paths.append(record(folder, accuracy + 0.02 * seed, seed=seed, arguments=text))
    (found,) = two_way(grouped_runs(open_runs([Path(path) for path in paths])))
    assert (found.measure, found.across, found.options) == ("test accuracy", "rate.lr", 1)
    assert found.header == ["schedule.steps", "rate.lr 0.02", "rate.lr 0.1"]
    assert found.rows == [
        ["4", "71.00 % ± 1.41 %", "91.00 % ± 1.41 %"],
        ["16", "", "61.00 % ± 1.41 %"],
    ]
    assert not list(two_way(grouped_runs(open_runs([Path(path) for path in paths[:4]]))))
    groups = grouped_runs(open_runs([Path(path) for path in paths]))
    page = comparison(groups, tables(groups), Undrawn())  # type: ignore[arg-type]
    (ways,) = [part for part in page if part.title == "Two ways"]
    assert [block.rows for block in ways.blocks if isinstance(block, Grid)] == [found.rows]


class Undrawn:
    """Draws no figure of a page."""

    def add(self, *_: object) -> None: ...
