"""What a person sees of a run: lines while it continues, and the closing table."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from analysis.synthetic import synthetic
from launching import ROOT, until
from small_runs import small_run

from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS
from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.commands.display import Display, conclusion, show_conclusion
from hpc_localsgd.commands.display.lines import fields, live_line
from hpc_localsgd.commands.display.state import State
from hpc_localsgd.commands.plan.command import main as plan
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.commands.rich_text import WIDTH
from hpc_localsgd.commands.summary import main as summary
from hpc_localsgd.commands.train import _conclude
from hpc_localsgd.errors import Gone
from hpc_localsgd.run.finished_rounds import (
    COMPUTE_S,
    EXCHANGE_S,
    LAST_H,
    LAST_RATE,
    LOSS_HERE,
    ROUNDS_LOSS,
    STEPS_OF_ROUNDS,
)
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory, TrajectoryError


def test_a_run_and_its_plan_say_with_what_optimiser_and_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all arguments, at the beginning of the run and in its closing table."""
    options = ["--task=quadratic", "--workers=2", "--steps=4", "--figures=false"]
    options += ["--optimizer=AdamW", "--rate=constant", "--rate.lr=0.01", f"--out={tmp_path / 'r'}"]
    for door, times in ((plan, 1), (train, 2)):
        assert door(options) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01") == times
        assert said.count("constant(lr=0.01, warmup=0") == times


def test_a_task_without_accuracy_shows_its_test_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--task=quadratic", "--workers=2", "--steps=20", "--figures=false"]
    assert train([*options, f"--out={run}"]) == 0
    assert summary([str(run)]) == 0 and summary([str(run), str(run)]) == 0
    said = capsys.readouterr().out
    assert "accuracy nan" not in said and "nan" not in said.split()
    assert "test loss of the mean model" in said and "step 20/20" in said
    for draw in (draw_accuracy, draw_course):
        figure = draw(Trajectory(run))
        assert {axes.get_ylabel() for axes in figure.axes} == {"loss", ""}
        assert figure.texts[0].get_text() == "Loss"
    assert report([str(run), f"--out={tmp_path}", "--formats"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "This task has no accuracy" in page and "eval/test/accuracy" not in page


def a_display(steps: int = 160, **given: Any) -> Display:
    display = Display(rank=0, terminal=False, **given)
    display._state = State(steps, steps_per_epoch=20.0, samples_per_step=64)
    display._state.begin(0)
    return display


ROUNDS = {
    STEPS_OF_ROUNDS: 8.0,
    ROUNDS_LOSS: 0.5,
    COMPUTE_S: 3.0,
    EXCHANGE_S: 1.0,
    LAST_RATE: 0.1,
    LAST_H: 4.0,
}


def test_a_value_of_an_earlier_step_says_so_and_is_on_one_line_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = a_display(16, every_s=0.0)
    display.show(8, {"spread": 0.5, **ROUNDS})
    display.show(16, {"train/loss": 1.25, ACCURACY: 0.75})
    line = capsys.readouterr().out
    assert "  test accuracy 75.00 %  " in line and "  spread 0.5 (step 8)  " in line
    display.show(16, {ACCURACY: 0.5})
    line = capsys.readouterr().out
    assert "test accuracy 50.00 %" in line and "spread" not in line


def test_the_loss_of_a_line_is_the_mean_of_all_steps_since_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = a_display(32, every_s=0.0)
    display.show(8, ROUNDS)
    display.show(24, ROUNDS | {STEPS_OF_ROUNDS: 16.0, ROUNDS_LOSS: 0.2, EXCHANGE_S: 2.0})
    display.show(32, {"train/loss": 9.0, ACCURACY: 0.75})
    line = capsys.readouterr().out
    assert "  loss 0.3  " in line and "  communication 33 %  " in line
    display.show(32, {"train/loss": 8.0, ACCURACY: 0.75})
    line = capsys.readouterr().out
    assert "  loss 8  " in line and "communication" not in line


def test_in_a_long_round_lines_come_by_the_clock_with_the_loss_of_rank_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = a_display()
    display.show(0, {ACCURACY: 0.1})
    assert re.search(r"step +0/160  0 %", capsys.readouterr().out)
    for t in range(1, 121):
        now[0] += 1.0
        display.show(t, {LOSS_HERE: 2.0 + t})
    said = capsys.readouterr().out.splitlines()
    assert [int(re.search(r"step +(\d+)/", line)[1]) for line in said] == [31, 62, 93]  # type: ignore[index]
    assert "epoch 1.55  2.15 min left  loss 33 (rank 0)  64 samples/s  31 s elapsed" in said[0]
    assert not {"nan", "lr", "H"} & set(said[0].split())


def test_lines_of_keys_and_values_are_found_by_grep(capsys: pytest.CaptureFixture[str]) -> None:
    display = a_display(16, every_s=0.0, style="key=value")
    display.show(8, {"spread": 0.5, **ROUNDS})
    display.show(16, {"train/loss": 1.25, ACCURACY: 0.75, TEST_LOSS: math.nan})
    found = dict(word.split("=") for word in capsys.readouterr().out.split())
    datetime.strptime(found.pop("time"), "%Y-%m-%dT%H:%M:%S%z")
    for name in ("samples_per_s", "elapsed_s", "eta_s"):
        assert float(found.pop(name)) >= 0
    assert found == {
        **{"step": "16", "steps": "16", "epoch": "0.8", "loss": "0.5", "lr": "0.1", "H": "4"},
        **{"communication": "0.25", "spread": "0.5", "spread_step": "8"},
        **{"test_accuracy": "0.75", "test_loss": "nan"},
    }


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_a_live_line_has_whole_fields_only(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    state = State(100_000, steps_per_epoch=20.0, samples_per_step=64)
    state.begin(0)
    state.take(50_000, {"spread": 0.5, ACCURACY: 0.75, TEST_LOSS: 0.25, **ROUNDS})
    line = live_line(state, width)
    whole = [f.text for f in fields(state) if f.key != "elapsed_s" and f.text in line]
    assert line == "  ".join(whole) and len(line) <= width
    assert line.startswith("step  50000/100000")
    assert ("loss 0.5" in line) == (width >= 60) and ("spread" in line) == (width >= 200)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux: sudo apt install tmux")
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40)])
def test_nothing_is_cut_on_a_terminal(tmp_path: Path, columns: int, lines: int) -> None:
    """A real one, in which the live line is written over until the run ends."""
    options = f"--workers=2 --epochs=4 --out={tmp_path / 'run'} --figures=false"
    # The C library's readline puts the size of pytest's own terminal into the environment.
    train = f"env -u COLUMNS -u LINES {sys.executable} -m hpc_localsgd.train {options}"
    program = f"{train}; touch {tmp_path / 'over'}; sleep 99"
    tmux = ["tmux", "-L", f"display-{tmp_path.name}", "-f", "/dev/null"]
    size = ["-x", str(columns), "-y", str(lines)]
    seen = ""
    subprocess.run([*tmux, "new-session", "-d", *size, program], check=True, cwd=ROOT)
    try:
        until(lambda: (tmp_path / "over").exists(), 120, "the run on a terminal is over")
        seen = subprocess.check_output([*tmux, "capture-pane", "-p", "-S", "-"], text=True)
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    assert "…" not in seen and "hpc_localsgd" in seen
    (live,) = [line for line in seen.splitlines() if re.search(r"step +\d+/\d+  ", line)]
    assert re.search(r"100 %  0 s left  loss [\d.e-]+  test accuracy \d+\.\d\d %( |$)", live), seen
    assert ("━" in live) == (columns >= 100), seen


@pytest.mark.parametrize(("ranks", "columns"), [(1, 60), (2, WIDTH)])
def test_the_closing_table_fits_a_persons_terminal_and_not_a_launchers(
    tmp_path: Path, ranks: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launchers give their ranks a terminal of 80 columns, also where the log is a file."""
    monkeypatch.setenv("COLUMNS", "60")
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", shown)
    run = small_run(steps=2)
    monkeypatch.setattr(run.world, "n", ranks)
    monkeypatch.chdir(tmp_path)
    show_conclusion(synthetic(Path("run")), run, [Path("/" + 70 * "Q")])
    *table, following = shown.getvalue().splitlines()
    widest = max(len(line) for line in table)
    assert widest <= columns and (widest > 60) == (columns > 60)
    assert shown.getvalue().count("Q") == 70
    assert following.startswith("next ") and following.endswith(" -m hpc_localsgd report run")


def test_one_worker_sends_nothing_in_parallel_sgd_either(tmp_path: Path) -> None:
    run = small_run(K=1, steps=2)
    table = conclusion(synthetic(tmp_path, K=1, steps=8), run, [])
    said = dict(zip(*(column.cells for column in table.columns), strict=True))
    assert str(said["sent by a worker"]).endswith(", against 0 B of parallel SGD")


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("allreduce", "6, one a step: parallel SGD"),
        ("local_sgd", "2, against 6 of parallel SGD (33.3 %)"),
    ],
)
def test_the_closing_table_says_how_often_workers_exchanged(
    tmp_path: Path, algorithm: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = "--workers=2 --steps=6 --task.hidden=4 --evaluate-every=0 --figures=false".split()
    rounds = ["--schedule=every", "--schedule.steps=3", f"--algorithm={algorithm}"]
    assert train([*tiny, *rounds, f"--out={tmp_path}"]) == 0
    assert re.findall("^rounds +(.*)$", capsys.readouterr().out, re.MULTILINE) == [said]


@pytest.mark.parametrize(
    ("on_path", "active", "base", "typed"),
    [
        (True, True, "/usr", "python"),
        (True, False, sys.prefix, "python"),  # not an environment, or conda's
        (True, False, "/usr", re.escape(sys.executable)),  # a rank that mpirun has started
        (False, True, "/usr", re.escape(sys.executable)),
    ],
)
def test_the_closing_table_says_what_to_type_next(
    tmp_path: Path,
    on_path: bool,
    active: bool,
    base: str,
    typed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After `make train`, in a shell where the environment is not active, `python` is another.

    In one line, however long: of a command in two lines a half would be typed.
    """
    found = str(Path(sys.executable).with_name("python")) if on_path else None
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix if active else "")
    monkeypatch.chdir(tmp_path)
    for folder in ("a run", "a run of " + 100 * "Q"):
        show_conclusion(synthetic(Path(folder)), small_run(steps=2), [])
        *_, said = capsys.readouterr().out.splitlines()
        assert re.fullmatch(f"next  +{typed} -m hpc_localsgd report '{folder}'", said), said


@pytest.mark.parametrize("figures", [True, False])
def test_a_record_that_turns_out_damaged_when_a_run_is_done_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: bool
) -> None:
    """It opens, and what the figures or the table look up in it first cannot be read."""
    synthetic(tmp_path)

    def names(_: Trajectory) -> list[str]:
        raise TrajectoryError("trajectory.h5: damaged")

    monkeypatch.setattr(Trajectory, "names", names)
    job: Any = SimpleNamespace(out=tmp_path, run=small_run(), hosts=[])
    with pytest.raises(Gone, match=r"the run is done, but its record cannot be read: .* damaged"):
        _conclude(job, figures)
