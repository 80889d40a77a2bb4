"""The scripts of docs/migrating.md: what the page shows is what runs.

Those of Horovod and torch.distributed run in `test_attach_launched`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re

import pytest
from launching import ROOT, forked, run

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
def test_the_scripts_of_accelerate_run(which: str) -> None:
    if not importlib.util.find_spec("accelerate"):
        pytest.skip("accelerate is not installed: `make extras`")
    done = run(forked(2), [str(FOLDER / f"accelerate_{which}.py")])
    if which == "after":  # accelerate's own ranks abort now and then as the interpreter ends
        done.succeeded()
    found = re.search(r"test accuracy: (0\.\d+)", done.text)
    assert found and float(found[1]) > 0.85
