"""Test loss against sharpness over several runs: what was measured at their ends, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_localsgd.analysis.compare import grouped_runs
from hpc_localsgd.analysis.compare.draw_flatness import draw_flatness, points, rank_correlation
from hpc_localsgd.analysis.compare.legend import MARKERS
from hpc_localsgd.analysis.compare.measures import SHARPEST
from hpc_localsgd.analysis.compare.page import write_comparison
from hpc_localsgd.analysis.figure_data import kept
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.trajectory import Header, Writer

NAMES = {"task": "t", "algorithm": "a", "schedule": "s", "world": "mpi(2 x 1 workers)"}


def record(folder: Path, H: int, seed: int, *, trace: bool = True) -> str:
    """A run that is the flatter and the better the longer its rounds."""
    schedule = f"schedule: {{class_path: hpc_localsgd.every, init_args: {{steps: {H}}}}}\n"
    header = Header(f"{schedule}seed: {seed}\n", **NAMES, K=2, P=3, seed=seed)
    with Writer(folder, header) as writer:
        row: dict[str, Any] = dict.fromkeys(("compute_s", "wait_s", "transfer_s"), 1.0)
        writer.round(step_begin=0, step_end=8, lr=0.1, payload_bytes=8.0, **row)
        writer.series("eval/test/accuracy", 8, 0.9)
        writer.series("eval/test/loss", 8, loss_of(H, seed))
        writer.close("complete")
    config = "sharpness: {samples: 100, seed: 0}"
    measured = Header(config, **NAMES, K=2, P=3, seed=seed)
    with Writer(folder / "sharpness.h5", measured) as writer:
        writer.series("sharpness/eigenvalues", 4, np.array([99.0, 1.0]), dims="eigenvalue")
        values = np.array([eigenvalue(H, seed), 1.0])
        writer.series("sharpness/eigenvalues", 8, values, dims="eigenvalue")
        if trace:
            writer.series("sharpness/trace", 8, 10 * eigenvalue(H, seed))
        writer.close("complete")
    return str(folder)


def eigenvalue(H: int, seed: int) -> float:
    return 20 / H + seed / 10


def loss_of(H: int, seed: int) -> float:
    return 0.5 - H / 100 - seed / 1000


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [record(tmp_path / f"{H}-{seed}", H, seed) for H in (1, 4, 8) for seed in range(3)]


def test_dots_are_the_runs_and_symbols_their_means(runs: list[str]) -> None:
    figure = draw_flatness(grouped_runs(open_runs(runs)))
    assert figure is not None and len(figure.axes) == 2
    drawn = {line.line: line for line in kept(figure.axes[0])}
    assert set(drawn) == {f"{g}, {what}" for g in "ABC" for what in ("runs", "mean")}
    for letter, H in zip("ABC", (1, 4, 8), strict=True):
        of_runs, mean = drawn[f"{letter}, runs"], drawn[f"{letter}, mean"]
        assert sorted(of_runs.x) == pytest.approx([eigenvalue(H, s) for s in range(3)])
        assert sorted(of_runs.y) == pytest.approx(sorted(loss_of(H, s) for s in range(3)))
        assert mean.x[0] == pytest.approx(of_runs.x.mean())
        assert mean.low is not None and mean.y[0] - mean.low[0] == pytest.approx(0.001)
    symbols = [line for line in figure.axes[0].lines if line.get_marker() in set(MARKERS)]
    assert len(symbols) == 3
    (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert all(low < x < high for line in drawn.values() for x in line.x)
    assert all(bottom < y < top for line in drawn.values() for y in line.y)
    # Ranks are reversed within each group of three: 1 - 6 (3 x 8) / (9 x 80).
    assert figure.axes[0].get_title("right") == "rank correlation +0.80, 9 runs"


def test_the_sharpness_of_an_earlier_step_is_not_that_of_the_end(runs: list[str]) -> None:
    group = grouped_runs(open_runs(runs))[0]
    assert points(group, SHARPEST)[:, 0].max() < 99


def test_a_panel_needs_two_runs_and_a_word_on_correlation_five(tmp_path: Path) -> None:
    few = [record(tmp_path / f"few{H}", H, 0, trace=H == 1) for H in (1, 4)]
    figure = draw_flatness(grouped_runs(open_runs(few)))
    assert figure is not None and len(figure.axes) == 1  # of the trace there is one value
    assert figure.axes[0].get_title("right") == ""
    assert draw_flatness(grouped_runs(open_runs(few[:1]))) is None


@pytest.mark.parametrize(
    ("y", "found"),
    [([1, 2, 3, 40], 1.0), ([4, 3, 2, 1], -1.0), ([1, 1, 1, 1], np.nan), ([1, 3, 2, 4], 0.8)],
)
def test_the_rank_correlation_is_spearmans(y: list[float], found: float) -> None:
    assert rank_correlation(np.arange(4.0), np.array(y)) == pytest.approx(found, nan_ok=True)


def test_the_page_has_the_figure(runs: list[str], tmp_path: Path) -> None:
    files = write_comparison(open_runs(runs), tmp_path / "out", ("png",))
    assert "Flatness and test loss" in files[0].read_text()
    assert tmp_path / "out" / "flatness.png" in files


def test_values_fifteen_times_apart_are_drawn_by_factors(tmp_path: Path) -> None:
    far = [record(tmp_path / f"far{H}", H, 0) for H in (1, 40)]  # eigenvalues 20 and 0.5
    figure = draw_flatness(grouped_runs(open_runs(far)))
    assert figure is not None and figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xlim() == pytest.approx((0.5 / 1.4, 20 * 1.4))
    near = [record(tmp_path / f"near{H}", H, 0) for H in (2, 20)]  # 10 and 1
    figure = draw_flatness(grouped_runs(open_runs(near)))
    assert figure is not None and figure.axes[0].get_xscale() == "linear"
    assert figure.axes[0].get_xlim() == pytest.approx((0.0, 10 + 0.15 * 9))
