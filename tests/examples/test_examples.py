"""The scripts of examples/ run, and train something."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
from launching import ROOT, forked, run

FOLDER = ROOT / "examples"
SCRIPTS = ("torchrun.py", "whole_loop.py")
# Script -> what must be installed, and what it must reach.
TRAINERS = {"hugging_face": ("transformers", "accelerate"), "lightning_module": ("lightning",)}
# Both import torchvision where it is; PyPI's, linked against CUDA, needs help beside a CPU's torch.
BESIDE_ANY_TORCH = """
from contextlib import suppress
from hpc_localsgd.tasks.torchvision_import import import_torchvision
with suppress(ImportError):
    import_torchvision()
"""


def reached(text: str, before: str = "", what: str = "accuracy") -> float:
    """The number that a script printed at its end."""
    found = re.search(rf"{before}test {what} of the \S+(?: model)?: (\d\.\d+)", text)
    assert found, text
    return float(found[1])


@pytest.mark.launched
def test_scripts_of_two_workers() -> None:
    """One after the other, with the variables of `torchrun`."""
    one, two = (str(FOLDER / script) for script in SCRIPTS)
    said = run(forked(2), [one, "+", two]).succeeded().text
    for script in SCRIPTS:
        of_this, said = said.split(f"{script} ended: [0, 0]")
        assert reached(of_this) > 0.8


@pytest.mark.launched
@pytest.mark.parametrize("script", sorted(TRAINERS))
def test_callbacks_of_trainers(script: str, tmp_path: Path) -> None:
    missing = [name for name in TRAINERS[script] if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: `make extras`")
    words = ["--first", BESIDE_ANY_TORCH, str(FOLDER / "trainers" / f"{script}.py")]
    outcome = run(forked(2), words).succeeded()
    good = (
        reached(outcome.text) > 0.8
        if script == "lightning_module"
        else reached(outcome.text, what="loss") < 1.0
    )
    assert good, outcome.text


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_one_worker(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert reached(capsys.readouterr().out) > 0.8
