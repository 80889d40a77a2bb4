"""Figures as a paper wants them: their numbers in a file, every panel alone at a column's width."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_localsgd.__main__ import main
from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare import grouped_runs
from hpc_localsgd.analysis.compare.courses import recorded
from hpc_localsgd.analysis.compare.draw_courses import draw_courses
from hpc_localsgd.analysis.costs import STEPS
from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.plan import draw_plan
from hpc_localsgd.analysis.draw.spread import draw_spread
from hpc_localsgd.analysis.draw.time import draw_time
from hpc_localsgd.analysis.draw.timeline import draw_timeline
from hpc_localsgd.analysis.draw.waiting import draw_waiting
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import HEADER, kept
from hpc_localsgd.analysis.lone_panels import lone_panels
from hpc_localsgd.analysis.panel_names import names_of, panels_in
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands.figure_options import inches
from hpc_localsgd.trajectory import Trajectory

from .synthetic import synthetic
from .test_courses import record

COLUMN_IN = 3.25
DRAWN: tuple[Callable[[Trajectory], Any], ...] = (
    draw_accuracy,
    draw_course,
    draw_plan,
    draw_spread,
    draw_time,
    draw_timeline,
    draw_waiting,
)


@pytest.fixture(autouse=True)
def house_style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        parameters: Any = matplotlib.rcParams
        parameters.update(style.RC)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    return synthetic(tmp_path_factory.mktemp("paper") / "run", K=4, steps=240, switch=80)


@pytest.fixture(scope="module")
def page(run: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its report, with numbers, and with panels of a column's width."""
    folder = tmp_path_factory.mktemp("page")
    asked = ["report", str(run.path.parent), "--out", str(folder), "--width", "82.55mm"]
    assert main([*asked, "--formats", "svg", "csv"]) == 0
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def line(found: list[dict[str, str]], panel: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a line in the file of a figure."""
    of = [row for row in found if (row["panel"], row["line"]) == (panel, name)]
    return np.array([float(r["x"]) for r in of]), np.array([float(r["y"]) for r in of])


def test_the_numbers_of_a_figure_are_those_of_the_record(run: Trajectory, page: Path) -> None:
    course = rows(page / "course.csv")
    assert tuple(course[0]) == HEADER
    accuracy = run.series("eval/test/accuracy")
    x, y = line(course, "test-accuracy-global-step", "mean model")
    np.testing.assert_array_equal(x, accuracy.step)
    np.testing.assert_array_equal(y, accuracy.value)
    train = run.series("train/loss")
    x, y = line(course, "loss-global-step", "train loss")
    np.testing.assert_array_equal(x, train.step)
    np.testing.assert_allclose(y, train.value.mean(axis=1), rtol=1e-15)
    spent = rows(page / "time.csv")
    for name, column in (("computing", "compute_s"), ("waiting", "wait_s")):
        worker, seconds = line(spent, spent[0]["panel"], name)
        np.testing.assert_array_equal(worker, range(run.K))
        np.testing.assert_allclose(seconds, run.rounds[column].sum(axis=0), rtol=1e-12)
    assert {(row["x_name"], row["y_name"]) for row in spent} == {("worker", "seconds")}
    assert not any(row["low"] or row["high"] for row in spent), "there are no bars"
    plan = rows(page / "plan.csv")
    _, H = line(plan, "h-local-steps-a-round", "happened")
    np.testing.assert_array_equal(H, run.rounds.local_steps)


def test_bytes_are_bytes_whatever_unit_the_axis_has(run: Trajectory, page: Path) -> None:
    course = rows(page / "course.csv")
    sent = [r for r in course if r["x_name"] == "bytes sent by a worker"]
    assert max(float(r["x"]) for r in sent) == run.rounds.payload_bytes[:, 0].sum()
    seconds = {r["x_name"] for r in course if r["panel"].startswith("loss-seconds")}
    assert seconds == {"seconds, the slowest worker (measured)"}


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_every_panel_tells_its_numbers(draw: Callable[..., Any], run: Trajectory) -> None:
    figure = draw(run)
    assert all(kept(axes) for axes in panels_in(figure))
    names = [names_of(figure, axes).panel for axes in panels_in(figure)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


@pytest.mark.parametrize("width_in", [COLUMN_IN, 6.75])
@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_panel_alone_fits_its_width(
    draw: Callable[..., Any], run: Trajectory, width_in: float
) -> None:
    figure, seen = draw(run), 0
    # As where its files were written before: texts then remember another resolution.
    figure.savefig("/dev/null", format="svg")
    heading = [text.get_text() for text in figure.texts[:2]]
    for _, alone in lone_panels(figure, width_in):
        seen += 1
        (axes,) = panels_in(alone)
        assert alone.get_size_inches()[0] == width_in
        assert axes.get_position().width * width_in > 0.5 * width_in, "the panel has the room"
        box = alone.get_tightbbox(alone.canvas.get_renderer())
        wide, high = alone.get_size_inches()
        assert min(box.x0, box.y0) > -0.01 and box.x1 < wide + 0.01 and box.y1 < high + 0.01
        for text in texts_in(alone):
            assert text.get_text() not in heading
            assert 7 <= text.get_fontsize() <= 9
            assert "…" not in text.get_text()
        assert axes.get_xlabel()
    assert seen == len(panels_in(draw(run)))


def texts_in(figure: Any) -> list[Any]:
    """Every text that is seen."""
    from matplotlib.text import Text

    def inside(artist: Any) -> Iterator[Any]:
        for child in artist.get_children():
            if child.get_visible():
                yield child
                yield from inside(child)

    return [a for a in inside(figure) if isinstance(a, Text) and a.get_text()]


def test_lines_are_named_in_every_panel(run: Trajectory) -> None:
    named = [
        {text.get_text() for text in panels_in(alone)[0].texts if text.get_visible()}
        for name, alone in lone_panels(draw_course(run), COLUMN_IN)
        if name.startswith("loss")
    ]
    assert len(named) > 1
    assert all({"train loss", "test loss"} <= texts for texts in named)


def test_names_of_lines_stand_apart_in_a_low_panel(tmp_path: Path) -> None:
    """Three lines that end at one value: apart in the figure, and in a panel of half the height."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 8))
    axes = figure.add_subplot()
    axes.set(xlabel="x", ylabel="y", ylim=(0, 1))
    axes.plot([0, 1], [0.5, 0.5])
    end_labels(axes, [(0.5, name, "#000000") for name in ("first", "second", "third")])
    for lone in (figure, *(alone for _, alone in lone_panels(figure, COLUMN_IN))):
        lone.savefig(tmp_path / "figure.png")
        boxes = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
        assert all(below.y1 < above.y0 + 1 for below, above in pairwise(boxes))
        assert boxes[-1].y1 - boxes[0].y0 < 4 * boxes[0].height, "and no further than that"


def test_a_legend_has_its_own_room(tmp_path: Path) -> None:
    runs = [record(tmp_path / f"{H}", H, 0) for H in (2, 4, 8)]
    groups = grouped_runs(open_runs(runs))
    figure = draw_courses(groups, recorded(groups), STEPS)
    for _, alone in lone_panels(figure, COLUMN_IN):
        renderer = alone.canvas.get_renderer()
        (axes,) = panels_in(alone)
        assert axes.xaxis.label.get_visible() and axes.xaxis.label.get_text() == "global step"
        assert any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks())
        words = axes.xaxis.label.get_window_extent(renderer)
        assert alone.legends[0].get_window_extent(renderer).y1 <= words.y0 + 1


def test_words_do_not_overlap(run: Trajectory) -> None:
    for _, alone in lone_panels(draw_timeline(run), COLUMN_IN):
        renderer = alone.canvas.get_renderer()
        boxes = [
            t.get_window_extent(renderer) for t in panels_in(alone)[0].texts if t.get_visible()
        ]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_paper_gets_panels_with_text_as_text(page: Path) -> None:
    panel = (page / "paper" / "course-test-accuracy-global-step.svg").read_text(encoding="utf-8")
    assert float(re.search(r'width="([0-9.]+)pt"', panel)[1]) == pytest.approx(72 * COLUMN_IN)  # type: ignore[index]
    assert re.search(r"<text[^>]*>test accuracy</text>", panel)
    assert b"/Type0" in (page / "paper" / "time.pdf").read_bytes() or (
        b"/Subtype /Type42" in (page / "paper" / "time.pdf").read_bytes()
    )
    assert "<text" in (page / "course.svg").read_text(encoding="utf-8")
    assert {file.suffix for file in page.glob("*.*")} == {".html", ".svg", ".csv"}
    # In the page itself letters are drawn, so that it looks alike everywhere.
    assert "data:image/svg+xml" in (page / "report.html").read_text(encoding="utf-8")


def test_compared_runs_are_named_in_every_panel(tmp_path: Path) -> None:
    runs = [record(tmp_path / f"{H}-{seed}", H, seed) for H in (2, 8) for seed in (0, 1)]
    out = tmp_path / "out"
    assert main(["compare", *runs, "--out", str(out), "--width", "3.25in", "--formats", "csv"]) == 0
    for name in ("front-*bytes*", "courses_steps-test-accuracy"):
        (file,) = (out / "paper").glob(f"{name}.svg")
        text = file.read_text(encoding="utf-8")
        assert "2 seeds" in text and len(re.findall(r">[AB] ", text)) == 2
    front = rows(out / "front.csv")
    assert {row["line"] for row in front} == {"A", "B"}
    assert all(float(r["low"]) <= float(r["y"]) <= float(r["high"]) for r in front)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3.25in", 3.25), ("8.255cm", 3.25), ("82.55 mm", 3.25), ("234.8775pt", 3.25)],
)
def test_widths(text: str, expected: float) -> None:
    assert inches(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["3.25", "in", "0.1in", "9m", "-3in", "1e3in", "99cm", "nan in"])
def test_what_is_no_width_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "nowhere", f"--width={text}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "as in 3.25in" in said or "a panel is 1.5 to 20 in wide" in said
