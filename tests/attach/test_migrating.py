"""The scripts of docs/migrating.md: what the page shows is what runs.

Those of Horovod and torch.distributed run in `test_attach_launched`, those of accelerate in
`tests/examples`.
"""

from __future__ import annotations

import difflib
import re

from launching import ROOT

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
