"""What a job script sees of the status of ranks: the table of docs/failure.md."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from launching import ROOT, gloo, horovodrun, mpirun, run, torchrun

from hpc_localsgd.commands.exit_codes import STOPPED

STARTS = {
    "mpirun": mpirun,
    "horovodrun": horovodrun,
    "horovodrun --gloo": gloo,
    "torchrun": torchrun,
}
ENDS = f"print('a rank begins', flush=True); raise SystemExit({STOPPED})"


def said_of(launcher: str) -> str:
    """The last cell of the launcher's row."""
    rows = [
        line.split("|")[1:-1] for line in (ROOT / "docs" / "failure.md").read_text().split("\n")
    ]
    asked = [row for row in rows if len(row) == 3 and row[1].strip() == "0"]
    found = [row[-1] for row in asked if f"`{launcher}`" in row[0]]
    assert len(found) == 1, launcher
    return found[0].strip()


@pytest.mark.parametrize("name", STARTS)
def test_the_table_is_true(name: str) -> None:
    start: Callable[[int], list[str]] = STARTS[name]
    said = said_of(name)
    numbers = {int(n) for n in re.findall(r"\b1\b", said)}
    expected = numbers | ({STOPPED} if "the same" in said else set())
    assert run(start(2), ["-c", ENDS], timeout_s=60).status in expected
