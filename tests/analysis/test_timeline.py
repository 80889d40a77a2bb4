"""The timeline holds what `/rounds` recorded, in the order of a round, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.synthetic import synthetic
from hpc_localsgd.analysis.draw.timeline import COLOURS, ROUNDS, draw_timeline
from hpc_localsgd.analysis.timeline import KINDS, around_the_switch, timeline
from hpc_localsgd.analysis.trace import NAMES, write_trace
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.trajectory import Header, Trajectory, Writer


def a_run(folder: Path, rows: list[dict[str, Any]], K: int = 2) -> Trajectory:
    header = Header(
        **{"config": "seed: 0", "task": "digits", "algorithm": "local_sgd", "schedule": "every(2)"},
        **{"world": f"mpi({K} x 1 workers)", "K": K, "P": 10, "seed": 0, "clock": "measured"},
    )
    with Writer(folder, header, mode="overwrite") as writer:
        for row in rows:
            writer.round(**row)
        writer.series("spread", 3, 0.25, units="1", meaning="")
        writer.close("complete")
    return Trajectory(folder)


def a_round(begin: int, end: int, compute: list[float], wait: list[float], transfer: float) -> Any:
    seconds = {"compute_s": compute, "wait_s": wait, "transfer_s": [transfer] * len(compute)}
    counts = {"payload_bytes": [8] * len(compute), "wire_bytes": [8] * len(compute)}
    return {"step_begin": begin, "step_end": end, "lr": 0.1 / (1 + begin), **seconds, **counts}


ROWS = [
    a_round(0, 1, [1.0, 3.0], [2.0, 0.0], 0.5),
    a_round(1, 3, [4.0, 2.0], [0.0, 2.0], 1.0),
    a_round(3, 5, [1.0, np.nan], [0.0, np.nan], 0.25),
]


def test_a_part_begins_where_the_one_before_it_ended(tmp_path: Path) -> None:
    found = timeline(a_run(tmp_path / "run", ROWS))
    np.testing.assert_array_equal(found.begin_s["compute_s"], [[0, 0], [3.5, 3.5], [8.5, np.nan]])
    np.testing.assert_array_equal(found.begin_s["wait_s"], [[1, 3], [7.5, 5.5], [9.5, np.nan]])
    np.testing.assert_array_equal(found.begin_s["transfer_s"], [[3, 3], [7.5, 7.5], [9.5, 8.5]])
    assert found.end_s == 9.75 and not found.modelled
    later = timeline(a_run(tmp_path / "run", ROWS), slice(1, 2))
    np.testing.assert_array_equal(later.begin_s["compute_s"], [[0, 0]])
    assert list(later.rounds) == [1] and later.end_s == 5.0


def test_the_trace_has_every_part_once_and_no_two_at_a_time(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ROWS)
    events = json.loads(write_trace(run, tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    for kind in KINDS:
        for k in range(2):
            mine = [e for e in slices if e["name"] == NAMES[kind] and e["tid"] == k]
            recorded = run.rounds[kind][:, k]
            np.testing.assert_allclose(
                [e["dur"] / 1e6 for e in mine], recorded[np.nan_to_num(recorded) > 0]
            )
    for k in range(2):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["tid"] == k)
        assert all(a[1] <= b[0] for a, b in zip(mine, mine[1:], strict=False))
    assert {e["args"]["H"] for e in slices if e["args"]["round"] == 1} == {2}
    counters = [(e["name"], e["ts"] / 1e6, *e["args"].values()) for e in events if e["ph"] == "C"]
    assert ("H", 3.5, 2) in counters and ("learning rate", 3.5, 0.05) in counters
    assert [c for c in counters if c[0] == "consensus distance"] == [
        ("consensus distance", 8.5, 0.25)
    ]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["rank 0", "rank 1"]


def test_a_counter_changes_with_the_first_worker_and_a_distance_stands_at_the_last(
    tmp_path: Path,
) -> None:
    rows = [
        a_round(0, 1, [1.0, 3.0], [0.0, 0.0], 0.0),
        a_round(1, 3, [1.0, 2.0], [0.0, 0.0], 0.0),
    ]
    run = a_run(tmp_path / "run", rows)
    events = json.loads(write_trace(run, tmp_path / "trace.json").read_text())["traceEvents"]
    at = {(e["name"], *e["args"].values()): e["ts"] / 1e6 for e in events if e["ph"] == "C"}
    assert at["H", 2] == 1.0 and at["learning rate", 0.05] == 1.0
    assert at["consensus distance", 0.25] == 5.0


def test_every_row_has_the_name_of_its_worker(tmp_path: Path) -> None:
    run = synthetic(tmp_path / "run", K=3, steps=200, switch=90, H=8)
    figure = draw_timeline(run)
    assert figure is not None
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == list(timeline(run).names) and len(set(shown)) == 3


def test_the_figure_has_the_rounds_around_the_switch(tmp_path: Path) -> None:
    run = synthetic(tmp_path / "run", K=3, steps=200, switch=90, H=8)
    window = around_the_switch(run.rounds, ROUNDS)
    assert run.rounds.local_steps[window].tolist() == [1] * 16 + [8] * 8
    figure = draw_timeline(run)
    assert figure is not None
    found, axes = timeline(run, window), figure.axes[0]
    drawn = {tuple(c.get_facecolor()[0]): [] for c in axes.collections}
    for collection in axes.collections:
        for path in collection.get_paths():
            box = path.get_extents()
            drawn[tuple(collection.get_facecolor()[0])].append((box.x0, box.width))
    from matplotlib.colors import to_rgba

    for kind in KINDS:
        there = found.long_s[kind] > 0
        want = sorted(zip(found.begin_s[kind][there], found.long_s[kind][there], strict=True))
        np.testing.assert_allclose(sorted(drawn[to_rgba(COLOURS[kind])]), want, atol=1e-9)


def test_H_stands_between_the_ends_of_rounds(tmp_path: Path) -> None:
    """Worker 0 ends its first exchange at 1.5 s and is in the second round; worker 1 at 4 s."""
    rows = [a_round(2 * s, 2 * s + 2, [1.0 + 3 * s] * 2, [0.0, 0.0], 0.5) for s in range(2)]
    rows[0]["transfer_s"] = [0.5, 3.0]
    figure = draw_timeline(a_run(tmp_path, rows))
    assert figure is not None
    written = {t.get_position()[0] for t in figure.axes[0].texts if t.get_text() == "H 2"}
    assert written == {2.0, 6.25}  # of 0 to 4, and of 4 to 8.5


def test_without_longer_rounds_the_first_are_shown(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ROWS[:1])
    assert around_the_switch(run.rounds, 5) == slice(0, 5) and draw_timeline(run) is not None
    assert draw_timeline(a_run(tmp_path / "none", [])) is None


@pytest.mark.parametrize("runs", [1, 2])
def test_the_report_writes_a_trace_when_asked(
    tmp_path: Path, runs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / f"run{i}" for i in range(runs)]
    for folder in folders:
        a_run(folder, ROWS)
    out = tmp_path / "page"
    assert report([*map(str, folders), f"--out={out}", "--formats"]) == 0
    assert not list(out.glob("*.json"))
    assert report([*map(str, folders), f"--out={out}", "--formats", "--trace"]) == 0
    names = ["trace.json"] if runs == 1 else ["1-trace.json", "2-trace.json"]
    assert sorted(p.name for p in out.glob("*.json")) == names
    assert capsys.readouterr().out.count("ui.perfetto.dev") == runs
