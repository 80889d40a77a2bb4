"""Figures hold what was recorded and nothing else: their artists against the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.plan import draw_plan
from hpc_localsgd.analysis.draw.sharpness import draw_sharpness, series_of
from hpc_localsgd.analysis.draw.spread import draw_spread
from hpc_localsgd.analysis.panels import draw_panels, panel_of, panels_of
from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.report.at_exchanges import alpha_panels
from hpc_localsgd.analysis.rounding import floor_of, said, without_rounding
from hpc_localsgd.schedules.rates import cosine
from hpc_localsgd.trajectory import Header, Trajectory, Writer

STEPS, H = 96, 8
RATE = cosine(lr=0.4, warmup=20, until=STEPS)
NAN = float("nan")


def config(rate: str = "hpc_localsgd.schedules.rates.cosine") -> str:
    made = "{lr: 0.4, warmup: 20, warmup_from: 0.0, floor: 0.0, until: 100%}"
    every = "{class_path: hpc_localsgd.schedules.local_steps.every, init_args: {steps: 8}}"
    return (
        f"steps: {STEPS}\nbatch_per_worker: 4\nschedule: {every}\n"
        f"rate: {{class_path: {rate}, init_args: {made}}}\n"
    )


def recorded(
    folder: Path,
    text: str | None = None,
    gossip: bool = False,
    missing: tuple[int, ...] = (),
    lr: Any = RATE,
) -> Trajectory:
    """A run of twelve rounds whose rate changes at every step; of some rounds nothing is known."""
    said = ("digits", "Gossip" if gossip else "LocalSGD", "every(8)", "simulated(2)")
    header = Header(text or config(), *said, K=2, P=9, seed=0, steps=STEPS)
    with Writer(folder, header) as writer:
        for s in range(STEPS // H):
            begin, end = H * s, H * (s + 1)
            if s in missing:
                continue
            row = {"compute_s": 0.1, "wait_s": 0.1, "transfer_s": 0.1, "payload_bytes": 9}
            writer.round(step_begin=begin, step_end=end, lr=lr(begin), **row)
            # The eighth is the rounding noise of equal workers.
            writer.series("spread", end, 3e-15 if s == 7 else 1.0 / (1 + s))
            if gossip:
                writer.series("before_exchange/spread", end, 2.0 / (1 + s))
            writer.series("train/loss", end, [1.0 / (1 + s), 2.0 / (1 + s)], dims="worker")
            writer.series("eval/test/loss", end, 0.5 / (1 + s))
            writer.series("eval/test/accuracy", end, NAN if s == 4 else 0.9 + s / 200)
    return Trajectory(folder)


def dots(axes: Any) -> set[tuple[float, float]]:
    """Every point of a scatter or a marker."""
    from matplotlib.collections import PathCollection

    found = {
        (float(x), float(y))
        for c in axes.collections
        if isinstance(c, PathCollection)
        for x, y in np.asarray(c.get_offsets())
    }
    for line in axes.lines:
        if line.get_marker() not in ("", "None", None):
            found |= set(map(tuple, np.asarray(line.get_xydata(), float).tolist()))
    return found


def lines(axes: Any) -> Iterator[np.ndarray]:
    """Points [n, 2] of every line that is drawn as one, in data coordinates."""
    for line in axes.lines:
        inside = line.get_transform() == axes.transData
        if inside and line.get_linestyle() not in ("None", "", " ") and len(line.get_xydata()) > 1:
            yield np.asarray(line.get_xydata(), float)


def points_of(run: Trajectory, name: str, least: float = 0.0) -> set[tuple[float, float]]:
    found = run.series(name)
    value = np.asarray(found.value, float)
    value = value.mean(1) if value.ndim > 1 else value
    kept = np.isfinite(value) & (value > least)
    return set(zip(found.step[kept].astype(float).tolist(), value[kept].tolist(), strict=True))


def test_the_spread_is_dots_at_exchanges_and_nothing_between(tmp_path: Path) -> None:
    run = recorded(tmp_path, missing=(5,))
    axes = draw_spread(run).axes[0]
    assert dots(axes) == points_of(run, "spread", least=1e-9)
    assert len(dots(axes)) == 10  # neither the missing round nor rounding noise
    assert not list(lines(axes))
    low = axes.get_ylim()[0]
    stems = np.array([s for c in axes.collections for s in segments(c) if s[0, 1] >= low])
    assert (stems[:, 0, 0] == stems[:, 1, 0]).all()  # upright: of one step
    assert {(x, y) for x, y in stems[:, 1].tolist()} == dots(axes)
    assert (stems[:, 0, 1] == low).all()  # equal after the exchange


def segments(collection: Any) -> list[np.ndarray]:
    from matplotlib.collections import LineCollection

    if not isinstance(collection, LineCollection) or collection.get_transform().is_affine is None:
        return []
    return [np.asarray(s) for s in collection.get_segments() if len(s) == 2 and s[1, 1] > 0]


def test_gossip_has_a_dot_on_each_side_of_the_mix(tmp_path: Path) -> None:
    run = recorded(tmp_path, gossip=True)
    axes = draw_spread(run).axes[0]
    both = points_of(run, "spread", least=1e-9) | points_of(run, "before_exchange/spread")
    assert dots(axes) == both
    assert not list(lines(axes))


def test_many_exchanges_are_ranges_that_hold_every_value(tmp_path: Path) -> None:
    said = ("digits", "LocalSGD", "every(2)", "simulated(2)")
    draw = np.random.default_rng(0)
    with Writer(tmp_path, Header("", *said, K=2, P=9, seed=0)) as writer:
        for s in range(2000):
            writer.series("spread", 2 * s + 2, 1 + draw.random())
    run = Trajectory(tmp_path)
    axes, *_, zoom = draw_spread(run).axes
    values = run.series("spread").value
    assert all(values.min() <= y <= values.max() for _, y in dots(axes))
    ends = np.array([s[:, 1] for c in axes.collections for s in segments(c)])
    assert (ends.min(), ends.max()) == (values.min(), values.max())
    assert not list(lines(axes)) and not list(lines(zoom))
    assert dots(zoom) == set(zip(run.series("spread").step[-12:], values[-12:], strict=True))


def test_the_rate_is_drawn_at_every_step(tmp_path: Path) -> None:
    """A warm-up and a cosine within rounds: not the rate of each round's first step."""
    run = recorded(tmp_path)
    for axes in (draw_spread(run).axes[1], draw_plan(run).axes[0]):
        (line,) = list(lines(axes))
        assert line[:, 0].tolist() == list(range(STEPS))
        np.testing.assert_allclose(line[:, 1], [RATE(t) for t in range(STEPS)], rtol=1e-12)
        assert len(set(line[:20, 1])) == 20


def test_a_rate_that_the_configuration_does_not_tell_is_dots(tmp_path: Path) -> None:
    for i, (text, lr) in enumerate(
        [
            (config("my.own.rate"), RATE),
            (config(), lambda t: 0.1 / (1 + t)),  # the record says something else
        ]
    ):
        run = recorded(tmp_path / str(i), text, lr=lr)
        assert rate_of(run) is None
        axes = draw_spread(run).axes[1]
        assert not list(lines(axes))
        assert dots(axes) == {(float(H * s), lr(H * s)) for s in range(STEPS // H)}
        assert "first step" in axes.get_title(loc="left")


def test_the_recorded_rates_are_dots_on_the_plan(tmp_path: Path) -> None:
    run = recorded(tmp_path, missing=(3,))
    axes = draw_plan(run).axes[0]
    assert dots(axes) == {(float(H * s), RATE(H * s)) for s in range(STEPS // H) if s != 3}


def test_H_is_blank_where_a_round_is_missing(tmp_path: Path) -> None:
    axes = draw_spread(recorded(tmp_path, missing=(3, 4))).axes[2]
    (steps,) = [p for p in axes.patches if hasattr(p, "get_data")]
    levels, edges, _ = steps.get_data()
    hole = np.flatnonzero(np.isnan(levels))
    assert len(hole) == 1 and (edges[hole[0]], edges[hole[0] + 1]) == (24, 40)


@pytest.mark.parametrize("draw", [draw_accuracy, draw_course])
def test_no_line_goes_over_a_gap(tmp_path: Path, draw: Any) -> None:
    run = recorded(tmp_path, missing=(8,))
    loss, score = (next(a for a in draw(run).axes if a.get_ylabel() == n) for n in NAMES)
    accuracy = points_of(run, "eval/test/accuracy")
    assert dots(score) == accuracy and len(accuracy) == 10
    assert points_of(run, "eval/test/loss") <= dots(loss)
    assert dots(loss) == points_of(run, "eval/test/loss") | points_of(run, "train/loss")
    for axes, holes in ((score, (40, 72)), (loss, (72,))):
        found = list(lines(axes))
        assert found
        for line in found:
            assert not any(line[0, 0] < hole < line[-1, 0] for hole in holes)
            assert np.diff(line[:, 0]).max() == H


NAMES = ("loss", "test accuracy")


def test_panels_have_gaps_where_there_is_no_value(tmp_path: Path) -> None:
    run = recorded(tmp_path, missing=(8,))
    axes = draw_panels(run, "", [panel_of(run.series("eval/test/accuracy"))]).axes[0]
    assert dots(axes) == points_of(run, "eval/test/accuracy")
    assert all(np.diff(line[:, 0]).max() == H for line in lines(axes))


def test_panels_without_a_value_are_left_out_if_others_have_some(tmp_path: Path) -> None:
    recorded(tmp_path)
    with Writer(tmp_path, run_header(), mode="append") as writer:
        writer.series("nothing", H, np.nan)
    run = Trajectory(tmp_path)
    known, nothing = (panel_of(run.series(name)) for name in ("spread", "nothing"))
    for panels, title in (([nothing, known], known.title), ([nothing], nothing.title)):
        titles = [axes.get_title(loc="left") for axes in draw_panels(run, "", panels).axes]
        assert list(filter(None, titles)) == [title]


def test_the_error_of_the_first_value_is_not_cut_off(tmp_path: Path) -> None:
    recorded(tmp_path)
    with Writer(tmp_path, run_header(), mode="append") as writer:
        for step in (0, STEPS):
            writer.series("trace", step, 3.0)
            writer.series("trace_error", step, 0.5)
    run = Trajectory(tmp_path)
    found = {name: run.series(name) for name in ("trace", "trace_error")}
    axes = draw_panels(run, "", panels_of([("trace", [("trace", "")])], found)).axes[0]
    (bars,) = (each for each in axes.collections if isinstance(each, LineCollection))
    assert bars.get_clip_box().x0 < axes.bbox.x0


def test_the_given_rate_beside_the_effective_one_is_that_of_every_step(tmp_path: Path) -> None:
    recorded(tmp_path)
    with Writer(tmp_path, run_header(), mode="append") as writer:
        for s in range(STEPS // H):
            writer.series("gradient/effective_lr", H * s + H, 0.3)
    (panel, *_) = alpha_panels(Trajectory(tmp_path))
    given = panel.lines[1]
    assert given.everywhere and given.series.step.tolist() == list(range(STEPS))


def run_header() -> Header:
    said = ("digits", "LocalSGD", "every(8)", "simulated(2)")
    return Header(config(), *said, K=2, P=9, seed=0, steps=STEPS)


@pytest.mark.parametrize("version", [1, 2])
def test_deviations_of_equal_workers_are_left_blank_and_it_is_said(
    tmp_path: Path, version: int
) -> None:
    import h5py

    name = "snapshot_xi_" if version == 2 else "xi_"
    noise = 0.0 if version == 2 else 1e-13
    said_ = ("digits", "LocalSGD", "every(8)", "simulated(2)")
    path = tmp_path / "sharpness.h5"
    with Writer(path, Header("dtype: float32", *said_, K=2, P=9610, seed=0)) as writer:
        for step, trace in ((0, noise), (20, 1e-3), (40, noise)):
            curved = NAN if trace == 0 else 2.5
            writer.series(f"sharpness/{name}trace", step, trace)
            writer.series(f"sharpness/{name}gap", step, trace)
            writer.series(f"sharpness/{name}curvature", step, [curved, curved], dims="worker")
            writer.series("sharpness/trace", step, 7.0)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = version
    source = Trajectory(path, segments=False)
    found = series_of([source])
    for kind in ("trace", "gap", "curvature"):
        value = found[f"snapshot_xi_{kind}"].value.reshape(3, -1)
        assert np.isnan(value[[0, 2]]).all() and np.isfinite(value[1]).all(), kind
    assert np.isfinite(found["trace"].value).all()
    assert "At 2 steps" in said(without_rounding(found, "snapshot_xi_")[1])
    assert (floor_of(source) > 0) == (version == 1)
    figure = draw_sharpness(source, [source])
    assert figure is not None
    shown = {a.get_title(loc="left"): a for a in figure.axes}
    spread = next(a for title, a in shown.items() if title.startswith("spread"))
    assert dots(spread) == {(20.0, 1e-3)}
