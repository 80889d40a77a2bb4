"""The page of a run: whole, self-contained, and honest about what is missing."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.costs import elapsed_s, sent_bytes
from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.sharpness import Radii, draw_sharpness, radii_of, smoothed
from hpc_localsgd.analysis.panels import draw_panels
from hpc_localsgd.analysis.report.at_exchanges import alpha_panels
from hpc_localsgd.analysis.report.numbers import plan_rows, planned_bytes
from hpc_localsgd.analysis.report.render import render
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.analysis.waiting import waiting
from hpc_localsgd.commands import report as report_command
from hpc_localsgd.commands.report import main
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Header, Trajectory, Writer

from .synthetic import synthetic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that were not closed, what comes from outside, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.words = ""
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.pictures += tag == "img"
        assert tag not in ("script", "link", "iframe")
        self.outside += [
            v or "" for k, v in attrs if k == "src" and not (v or "").startswith("data:")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(*arguments: object) -> Page:
    """The page the command writes without figures beside it, warnings being errors."""
    out = Path(str(arguments[-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [str(a) for a in arguments[:-1]]
        assert main([*runs, f"--out={out}", "--formats"]) == 0
    page = Page((out / "report.html").read_text())
    assert page.open == [] and page.outside == []
    return page


def contents_lead_to_every_section(page: str) -> None:
    """Of a complete run, whose page stays: links have ends, and anchors are unique."""
    anchors = re.findall(r" id=\"?([\w-]+)", page)
    assert len(anchors) == len(set(anchors)) > 3
    links = re.findall(r"href=['\"]#([\w-]+)", page)
    assert set(links) <= set(anchors) and links
    assert "refresh" not in page


def test_a_whole_run(tmp_path: Path) -> None:
    synthetic(tmp_path / "run", steps=300, switch=100)
    assert main([str(tmp_path / "run"), "--formats", "png", "pdf"]) == 0
    beside = {file.name for file in (tmp_path / "run" / "report").iterdir()}
    figures = ("course", "plan", "spread", "time", "timeline", "waiting")
    assert beside == {"report.html"} | {f"{n}.{s}" for n in figures for s in ("png", "pdf")}
    text = (tmp_path / "run" / "report" / "report.html").read_text()
    contents_lead_to_every_section(text)
    page = Page(text)
    assert page.pictures == len(figures) and page.outside == []
    for words in ("Plan and what happened", "post_local(switch=100, every=8)", "worker 3"):
        assert words in page.words
    assert not re.search(r"\bnan\b", page.words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"status": "stopped"}, "stopped before its end"),
        ({"status": "diverged"}, "diverged"),
        ({"evaluations": 0, "train": False}, "never evaluated"),
        ({"spread": False}, "spread of the workers was not recorded"),
        ({"K": 1, "spread": False, "switch": 0}, "There are no snapshots"),
        ({"gossip": True, "H": 1}, "There is no plan to compare with"),
        ({"K": 64, "H": 16}, "and 52 more ranks"),
    ],
)
def test_odd_runs(tmp_path: Path, options: dict, words: str) -> None:
    synthetic(tmp_path / "run", **{"steps": 120, "switch": 40, **options})
    assert words in page_of(tmp_path / "run", tmp_path / "out").words


def killed(folder: Path, rounds: int = 6) -> Path:
    """A record nobody closed, of two ranks with two workers each, the second always late."""
    text = "schedule: {class_path: hpc_localsgd.every, init_args: {steps: 4}}\nepochs: 3\n"
    text += "rate: {class_path: hpc_localsgd.schedules.rates.constant}\ndtype: float64\n"
    world = "horovod(2 x 2 workers, cpu, OpenMPI)"
    names = {"task": "t", "algorithm": "<b>own</b>", "schedule": "every(4)", "world": world}
    header = Header(text, **names, K=4, P=10, seed=0, steps=100, steps_per_epoch=5.0)
    writer = Writer(folder, header)
    late, nan = np.array([1.0, 1.0, 1.5, 1.5]), float("nan")
    for s in range(rounds):
        row = {"compute_s": late, "wait_s": 1.5 - late, "transfer_s": 0.1, "payload_bytes": 80}
        writer.round(step_begin=4 * s, step_end=4 * s + 4, lr=0.1, **row)
        writer.series("mystery/thing", 4 * s, [1.0, nan, 2.0], dims=("axis",), units="furlong")
        writer.series("probe/alpha_e", 4 * s, 0.05 * (s + 1))
        writer.series("sharpness/eigenvectors", 4 * s, np.ones(10), dims=("parameter",))
    writer.flush()
    return folder


def test_a_killed_run_with_series_nobody_knows(tmp_path: Path) -> None:
    page = page_of(killed(tmp_path / "run"), tmp_path / "out")
    for words in (
        "or it was killed. It holds 24 of 100 steps",
        "mystery/thing",
        "6 of the 18 values of mystery/thing are not finite",
        "Effective learning rate",
        "Rank 1 (workers 2-3) was the last in 100 % of the rounds and caused 100 % of the waiting",
        "<b>own</b>",
    ):
        assert words in page.words, words


def test_a_series_of_tables_is_named_and_not_drawn(tmp_path: Path) -> None:
    """A value a step is a curve, and a row a step is several."""
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    pictures = {}
    for n in (0, 1, 2):
        with Writer(tmp_path / f"{n}", Header("seed: 0", **names, K=2, P=3, seed=0)) as writer:
            dims = ("row", "column")[:n]
            writer.series("mine/own", 8, np.ones((2, 3)[:n]), dims=dims, meaning="of mine")
            writer.close("complete")
        page = page_of(tmp_path / f"{n}", tmp_path / "out")
        assert "of mine" in page.words
        pictures[n] = page.pictures
    assert pictures == {0: 2, 1: 2, 2: 1}  # and that of the plan


def test_an_empty_run(tmp_path: Path) -> None:
    page = page_of(killed(tmp_path / "run", rounds=0), tmp_path / "out")
    assert "No round had ended" in page.words


def test_what_the_probes_found_has_sections_of_its_own(tmp_path: Path) -> None:
    options = ["--steps=48", "--workers=3", "--world=simulated", "--task.hidden=8"]
    options += ["--schedule=every", "--schedule.steps=8", "--deviations-every=8"]
    options += ["--gradients-every=8", "--probe-samples=64", "--figures=false"]
    assert train([*options, f"--out={tmp_path / 'run'}"]) == 0
    run = Trajectory(tmp_path / "run")
    assert {"xi/eigenvalues", "xi/gap", "gradient/effective_lr"} <= set(run.names())
    page = page_of(tmp_path / "run", tmp_path / "out")
    assert "Deviations of the workers" in page.words and "Effective learning rate" in page.words
    assert "Other series" not in page.words  # nothing was left over
    assert page.pictures == 7  # plan, course, spread, deviations, learning rate, time, timeline


def test_what_was_measured_of_an_earlier_run_is_left_out(tmp_path: Path) -> None:
    """Files of the run before that found their way back into its folder, as from a copy."""
    from hpc_localsgd.commands.landscape import main as landscape
    from hpc_localsgd.commands.sharpness import main as sharpness

    out = tmp_path / "run"
    options = ["--task.hidden=4", "--workers=2", "--steps=8", "--snapshot-every=4"]
    train([*options, "--figures=false", f"--out={out}"])
    assert sharpness([str(out), "--samples=32", "--eigenvalues=2"]) == 0
    assert landscape([str(out), "--samples=32", "--points=3"]) == 0
    (before,) = open_runs([str(out)])
    assert before.sharpness and len(before.landscapes) == 1 and not before.outdated
    made = {path: path.read_bytes() for path in (*out.glob("landscape*"), out / "sharpness.h5")}
    time.sleep(1.1)  # `created` has seconds
    train([*options, "--figures=false", f"--out={out}", "--overwrite"])
    for path, content in made.items():
        path.write_bytes(content)
    (now,) = open_runs([str(out)])
    assert now.sharpness is None and now.landscapes == []
    assert "landscape-pca.h5 was measured of a run that was" in page_of(out, tmp_path / "o").words


def test_the_radii_of_the_two_directions_are_told(tmp_path: Path) -> None:
    run = synthetic(tmp_path / "run", steps=80, switch=20)
    text = "sharpness: {sigma: 0.01, rho: 0.05}\n"
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    with Writer(
        tmp_path / "run" / "sharpness.h5", Header(text, **names, K=4, P=10**4, seed=0)
    ) as w:
        for name in ("average_direction", "worst_direction"):
            w.series(f"sharpness/{name}", 80, 1e-4)
    (source,) = open_runs([str(tmp_path / "run")])
    assert source.sharpness is not None
    assert radii_of(source.sharpness) == Radii(0.01, 0.05, 10**4) and radii_of(run) is None
    figure = draw_sharpness(run, source.files)
    assert figure is not None
    labels = [t.get_text() for t in figure.axes[0].texts]
    assert labels == ["average, σ = 0.01", "along the gradient (SAM), ρ = 0.05"]
    page = page_of(tmp_path / "run", tmp_path / "out")
    assert "about 1 in all, the one along the gradient rho = 0.05 in all: different" in page.words


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


def test_several_runs_are_compared_above(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        synthetic(run, steps=80, switch=20)
    page = page_of(*runs, tmp_path / "out")
    assert "What differs" in page.words and page.pictures == 1 + 3 + 2 * 6  # front, courses
    contents_lead_to_every_section((tmp_path / "out" / "report.html").read_text())


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


def test_faults_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no such trajectory" in capsys.readouterr().err
    run = killed(tmp_path / "run")
    with h5py.File(run / "trajectory.h5", "a") as file:
        file.attrs["schema_version"] = 0
        file.attrs["package_version"] = "0.0.7"
    assert main([str(run)]) == 2
    assert "Read it with hpc_localsgd 0.0.7" in capsys.readouterr().err
    good = killed(tmp_path / "good")
    (tmp_path / "file").write_text("")
    assert main([str(good), f"--out={tmp_path}/file/page"]) == 2
    assert "give --out a folder" in capsys.readouterr().err


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


def test_a_page_follows_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, names = tmp_path / "run", {"task": "t", "algorithm": "a", "schedule": "s", "world": "w"}
    writer = Writer(run, Header("seed: 0", **names, K=2, P=3, seed=0))
    writer.flush()
    page = run / "report" / "report.html"
    seen = []

    def another_minute(seconds: float) -> None:
        seen.append(('http-equiv="refresh" content="60"' in page.read_text(), seconds))
        page.unlink()
        if len(seen) == 2:
            writer.close("complete")

    monkeypatch.setattr(report_command.time, "sleep", another_minute)
    assert main([str(run), "--formats", "--watch"]) == 0
    assert seen == [(True, 60.0), (True, 60.0)] and "refresh" not in page.read_text()
    assert capsys.readouterr().out.count("report.html") == 1
