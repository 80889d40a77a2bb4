"""The scripts of examples/ run, and train something."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from launching import ROOT, run, torchrun

from hpc_localsgd.train import main

FOLDER = ROOT / "examples"
# Script -> what must be installed, and what it must reach.
TRAINERS = {"hugging_face": ("transformers", "accelerate"), "lightning_module": ("lightning",)}


def reached(text: str, what: str = "accuracy") -> float:
    """The number that a script printed at its end."""
    found = re.search(rf"test {what} of the \S+(?: model)?: (\d\.\d+)", text)
    assert found, text
    return float(found[1])


@pytest.mark.launched
@pytest.mark.parametrize("script", ["torchrun.py", "whole_loop.py"])
def test_scripts_under_torchrun(script: str) -> None:
    outcome = run(torchrun(2), [str(FOLDER / script)]).succeeded()
    assert reached(outcome.text) > 0.8


@pytest.mark.launched
@pytest.mark.parametrize("script", sorted(TRAINERS))
def test_callbacks_of_trainers(script: str, tmp_path: Path) -> None:
    missing = [name for name in TRAINERS[script] if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"not installed: .venv/bin/pip install {' '.join(missing)}")
    outcome = run(torchrun(2), [str(FOLDER / "trainers" / f"{script}.py")]).succeeded()
    good = (
        reached(outcome.text) > 0.8
        if script == "lightning_module"
        else reached(outcome.text, "loss") < 1.0
    )
    assert good, outcome.text


@pytest.mark.parametrize("script", ["torchrun.py", "whole_loop.py"])
def test_scripts_of_one_worker(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert reached(capsys.readouterr().out) > 0.8


def test_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("agg")
    options = ("--workers=3", "--steps=12", "--schedule.every=3", "--figures=false")
    assert main([*options, f"--out={tmp_path / 'run'}", "--task.hidden=8"]) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["analysis.py", "run"])
    names = runpy.run_path(str(FOLDER / "analysis.py"))
    assert (tmp_path / "analysis.png").stat().st_size > 1000
    # Post-local: six rounds of one step, then two of three; the workers send float32.
    assert names["H"].tolist() == [1] * 6 + [3] * 2
    assert np.isclose(names["sent"], 8 / 12 * names["parallel"])
    assert names["local"].sum() == 2 and (names["ratio"] > 0).all()
