"""What the README shows works: its links, its options, and the algorithm it adds."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from small_runs import go, small_run

from hpc_localsgd.commands.configuration.config import CHOICES, choices, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TRAIN = re.findall(r"^python -m hpc_localsgd\.train (--workers .+)$", README, re.MULTILINE)


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=str
)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("options", TRAIN)
def test_the_command_lines_are_understood(options: str) -> None:
    words = re.split(r"\s{2,}#", options)[0].split()
    assert parse(words).config.workers is not None


def test_every_mpirun_that_is_shown_starts_on_two_cores() -> None:
    """Open MPI refuses more ranks than cores, unless it is told; horovodrun tells it."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("hpc_localsgd/**/*.py")]
    pages += [*ROOT.glob("examples/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    shown = [
        line for page in pages for line in re.findall(r"mpirun [^`\n]*-np \d+.*", page.read_text())
    ]
    assert len(shown) > 5
    for line in shown:
        ranks = int(re.findall(r"-np (\d+)", line)[0])
        assert ranks <= 2 or "--oversubscribe" in line or "with-ft" in line, line


def test_there_are_command_lines_to_test() -> None:
    assert len(TRAIN) >= 3


@pytest.mark.parametrize("option", sorted(CHOICES.keys() - {"rate"}))
def test_everything_that_can_be_chosen_is_named(option: str) -> None:
    for name in choices(option):
        assert f"`{name}`" in README, f"the README does not name the {option} {name}"


def algorithm_it_adds() -> str:
    """The file of the README's example, whole: nothing has to be put in front of it."""
    code = re.search(r"```python\n(from dataclasses.+?class Lookahead.+?)```", README, re.DOTALL)
    assert code is not None
    return code.group(1)


def test_the_algorithm_it_adds_runs() -> None:
    names: dict[str, Any] = {}
    exec(algorithm_it_adds(), names)
    p, _ = go(small_run(algorithm=names["Lookahead"](), H=3, steps=12))
    assert p.x.isfinite().all() and (p.x - p.x[0]).abs().max() < 1e-13


def test_the_algorithm_it_adds_needs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests of attach take every file of the folder, those just put there included."""
    (tmp_path / "lookahead.py").write_text(algorithm_it_adds())
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "attach"))
    folder = import_module("hpc_localsgd.algorithms")
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    choices.cache_clear()
    try:
        made = import_module("loops").of_the_folder()
    finally:
        choices.cache_clear()
        sys.modules.pop("hpc_localsgd.algorithms.lookahead", None)
    assert "Lookahead" in [type(one).__name__ for one in made]
