"""examples/extending/mine.py: every command line of its first lines trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launching import ROOT

from hpc_localsgd.schedules.base import rounds
from hpc_localsgd.schedules.rates import constant
from hpc_localsgd.train import main

FOLDER = ROOT / "examples" / "extending"
LINES = re.findall(r"-m hpc_localsgd\.train (.+)", (FOLDER / "mine.py").read_text())
SHORT = ("--steps=6", "--batch-per-worker=8", "--figures=false", "--save-model=false")


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in its folder."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("line", LINES)
def test_a_class_outside_the_package_is_trained_with(line: str, tmp_path: Path) -> None:
    words = re.sub(r"--(epochs|out) \S+", "", line).split()
    assert main([*words, *SHORT, f"--out={tmp_path / 'run'}"]) == 0


def test_all_kinds_are_shown() -> None:
    kinds = re.findall(r"mine\.(\w+)", " ".join(LINES))
    assert sorted(kinds) == ["Lookahead", "Wine", "sawtooth", "two_rings"]


def test_the_rounds_of_the_schedule() -> None:
    from mine import sawtooth  # type: ignore[import-not-found]

    planned = [each.H for each in rounds(sawtooth(most=3), constant(lr=0.1), steps=15)]
    assert planned == [1, 2, 3, 1, 2, 3, 1, 2]
