"""The scripts of docs/migrating.md: what the page shows is what runs."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable

import pytest
from launching import ROOT, horovodrun, run, torchrun

# Torch 2.13 sometimes aborts as a process ends that had several Gloo groups: seen in ddp_before.py.
ABORTS = "terminate called without an active exception"
FOLDER = ROOT / "examples" / "migrating"
PAIRS = ("horovod", "ddp", "accelerate")


def test_the_page_shows_the_scripts() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text()
    shown = re.findall(r"```diff\n(.*?)\n```", page, flags=re.DOTALL)
    for name, block in zip(PAIRS, shown, strict=True):
        before, after = (
            (FOLDER / f"{name}_{which}.py").read_text().splitlines()
            for which in ("before", "after")
        )
        diff = list(difflib.unified_diff(before, after, n=999, lineterm=""))[3:]
        assert block.splitlines() == [line.rstrip() for line in diff], f"{name} differs"


@pytest.mark.launched
@pytest.mark.parametrize("which", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "launcher"), [("horovod", horovodrun), ("ddp", torchrun), ("accelerate", torchrun)]
)
def test_the_scripts_run(name: str, launcher: Callable[[int], list[str]], which: str) -> None:
    if name == "accelerate" and not importlib.util.find_spec("accelerate"):
        pytest.skip("accelerate is not installed: .venv/bin/pip install accelerate")
    outcome = run(launcher(2), [str(FOLDER / f"{name}_{which}.py")])
    if which == "after" or ABORTS not in outcome.stderr:
        outcome.succeeded()
    found = re.search(r"test accuracy: (0\.\d+)", outcome.text)
    assert found and float(found[1]) > 0.85
