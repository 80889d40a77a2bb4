"""The figure of a plan: what the page says, drawn, and refused before anything is planned."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.commands.plan.command import main

SMALL = ("--workers", "4", "--parameters", "1000", "--samples", "640", "--steps", "40")


def drawn(path: Path, panel: str, line: str) -> tuple[np.ndarray, np.ndarray]:
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["panel"] == panel and r["line"] == line]
    return np.array([float(r["x"]) for r in rows]), np.array([float(r["y"]) for r in rows])


def test_bytes_seconds_and_rounds_are_those_of_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*SMALL, "--schedule", "post_local", "--schedule.switch", "20")
    figure = tmp_path / "plan.csv"
    assert main([*options, "--json", "--figure", str(figure)]) == 0
    plan = json.loads(capsys.readouterr().out)
    with figure.open(newline="") as file:
        panels = {row["panel"] for row in csv.DictReader(file)}
    sent = next(p for p in panels if "sent-by-a-worker" in p)
    spent = next(p for p in panels if "in-exchanges" in p)
    rounds = next(p for p in panels if p.startswith("h-local"))
    step, total = drawn(figure, sent, "this run")
    assert (step[-1], total[-1]) == (40, plan["traffic"]["payload_bytes_per_worker"])
    assert list(step) == [0, 20, 36, 40], "known where H changes"
    np.testing.assert_array_equal(drawn(figure, sent, "parallel SGD")[1], [0, 40 * 4000])
    seconds = drawn(figure, spent, "this run")[1][-1]
    assert seconds == pytest.approx(plan["seconds"]["communication_predicted"])
    np.testing.assert_array_equal(drawn(figure, rounds, "rounds from this step on")[1], [1, 16, 4])


def test_a_topology_is_drawn_with_it(tmp_path: Path) -> None:
    figure = tmp_path / "plan.svg"
    gossip = ("--algorithm", "gossip", "--algorithm.topology", "ring", "--schedule", "every")
    assert main([*SMALL, *gossip, "--figure", str(figure)]) == 0
    assert "ring, spectral gap 0.667" in figure.read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plan.jpg", "ends in .png"),
        ("nowhere/plan.png", "is not a folder: type a name in a folder that exists"),
        ("plan", "ends in"),
    ],
)
def test_a_figure_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--figure", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_last_round_that_is_cut_is_no_fall() -> None:
    from matplotlib.figure import Figure

    from hpc_localsgd.analysis.draw.rate import stairs

    axes = Figure().add_subplot()
    begins, ends = np.array([0, 8, 16]), np.array([8, 16, 17])
    stairs(axes, begins, ends, np.array([8.0, 8.0, 1.0]))
    levels = axes.patches[0].get_data().values
    assert np.isnan(levels[-2]) and levels[-1] == 1, "a gap before it, and no line down to it"
    stairs(axes, begins, np.array([8, 16, 24]), np.array([8.0, 4.0, 1.0]))
    assert np.isfinite(axes.patches[1].get_data().values).all(), "rounds that do become shorter"
