"""What a person sees of a run: lines while it goes on, and the closing table."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_localsgd.analysis.curves import ACCURACY
from hpc_localsgd.analysis.draw_accuracy import draw_accuracy
from hpc_localsgd.analysis.draw_course import draw_course
from hpc_localsgd.commands.display import Display
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.commands.summary import main as summary
from hpc_localsgd.run.recorder import ROUND_LOSS
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory


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


def test_a_value_of_an_earlier_step_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(rank=0, terminal=False)
    display._steps = 16
    display.show(8, {"spread": 0.5, ROUND_LOSS: 3.0})
    display.show(16, {"train/loss": 1.25})
    display.show(16, {ACCURACY: 0.75})
    line = capsys.readouterr().out
    assert line == "step 16/16  train loss 1.25  test accuracy 0.75  spread 0.5 (step 8)\n"
    display.show(16, {ROUND_LOSS: 2.0, ACCURACY: 0.5})
    assert "train loss 1.25  test" in capsys.readouterr().out
