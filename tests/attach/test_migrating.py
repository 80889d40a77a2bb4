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
def test_the_scripts_of_accelerate_run() -> None:
    if not importlib.util.find_spec("accelerate"):
        pytest.skip("accelerate is not installed: `make extras`")
    before, after = (str(FOLDER / f"accelerate_{which}.py") for which in ("before", "after"))
    said = run(forked(2), [before, "+", after]).text
    # Accelerate's own ranks abort now and then as the interpreter ends, before ours begin.
    assert "accelerate_after.py ended: [0, 0]" in said, said
    found = re.findall(r"test accuracy: (0\.\d+)", said)
    assert len(found) == 2 and min(map(float, found)) > 0.85, said
