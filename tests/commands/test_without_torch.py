"""Reading, planning, reporting and comparing, where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT

from hpc_localsgd.commands.plan import command, without_torch
from hpc_localsgd.commands.plan.command import main as plan
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.train import main as train

SIZES = ("--parameters=9610", "--samples=1437", "--workers=8", "--epochs=20")
# Run by a Python to which torch, MPI and what training brings do not exist; pages need even less.
ALONE = """
import sys
gone = "torch torchvision mpi4py horovod sklearn safetensors hdf5plugin xarray curvlinops"
of_plans = "scipy rich networkx jsonargparse"
sys.modules |= dict.fromkeys(f"{gone} {of_plans}".split())
from hpc_localsgd.__main__ import main
from hpc_localsgd.trajectory import Trajectory
run, out = sys.argv[1:]
assert Trajectory(run).totals.steps == 6
for words in (["report", run, "--out", out], ["cite", run]):
    assert main(words) == 0, words
for name in of_plans.split():
    del sys.modules[name]
for words in (
    ["plan", "--parameters=9610", "--samples=1437", "--workers=8", "--epochs=20"],
    ["summary", run],
    ["compare", run, run + "/../other"],
):
    assert main(words) == 0, words
assert main(["train", "--workers=2"]) == 2
"""


def test_commands_without_torch(tmp_path: Path) -> None:
    for name, seed in (("run", 0), ("other", 1)):
        options = ("--workers=2", "--steps=6", f"--seed={seed}", "--figures=false")
        assert train([*options, "--task.hidden=8", f"--out={tmp_path / name}"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "run"), str(tmp_path / "page")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pip install '.[train]'" in done.stderr
    assert (tmp_path / "page" / "report.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--schedule=every", "--schedule.steps=8", "--fabric=1GbE", "--step-time=0.2"),
        ("--schedule=qsr", "--schedule.alpha=0.2", "--rate.lr=0.2", "--time-limit=30"),
        ("--algorithm=allreduce", "--batch-per-worker=32"),
    ],
)
def test_the_plan_is_that_of_torch(
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan([*SIZES, *options]) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert plan([*SIZES, *options]) == 0
    alone = capsys.readouterr().out
    assert compared(alone) == compared(whole)
    assert "pip install '.[train]'" in alone


def compared(page: str) -> list[str]:
    """The part of the page on rounds and costs, but for what is assumed without torch."""
    part = page.partition("\nRounds\n")[2].partition("\nTake note\n")[0].splitlines()
    return [line for line in part if not line.startswith("  disk")]


@pytest.mark.parametrize(
    "words", [["--samples=10"], [*SIZES, "--task=text"], [*SIZES, "--steps=5"]]
)
def test_what_it_cannot_know_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="PyTorch|--steps"):
        without_torch.plan(words, "plan")


@pytest.mark.parametrize("length", ["--epochs=0", "--steps=0"])
def test_no_length_is_refused_as_with_torch(length: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is 0 steps: give at least one"):
        without_torch.plan(["--parameters=9610", "--samples=1437", length], "plan")
