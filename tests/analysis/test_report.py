"""The page of a run: whole, self-contained, and honest about what is missing."""

from __future__ import annotations

import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_localsgd.analysis.draw.sharpness import Radii, draw_sharpness, radii_of
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands import record_command
from hpc_localsgd.commands import report as report_command
from hpc_localsgd.commands.report import main
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Header, Trajectory, TrajectoryError, Writer

from .read_pages import Page, contents_lead_to_every_section, killed, page_of
from .synthetic import synthetic


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


def test_several_runs_are_compared_above(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        synthetic(run, steps=80, switch=20)
    page = page_of(*runs, tmp_path / "out")
    assert "What differs" in page.words and page.pictures == 1 + 3 + 2 * 6  # front, courses
    contents_lead_to_every_section((tmp_path / "out" / "report.html").read_text())


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


def test_who_watches_reads_again_where_a_read_fell_into_a_flush(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = ["running", "", "", "running", *[""] * (record_command.MISSES + 1)]

    def write(options: object) -> tuple[list[Path], bool]:
        if not (there := looks.pop(0)):
            raise TrajectoryError("being written at this moment")
        return [Path("report.html")], there == "running"

    monkeypatch.setattr(report_command, "_write", write)
    monkeypatch.setattr(report_command.time, "sleep", lambda seconds: None)
    assert main(["run", "--watch"]) == 2 and not looks
    assert "being written" in capsys.readouterr().err
