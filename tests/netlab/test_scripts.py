"""The scripts that measure are run by hand: at least what they import from the package is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """The modules of the package from which a script imports, with each name."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hpc_localsgd"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def exists(module: str, name: str) -> bool:
    made = import_module(module)
    return hasattr(made, name) or (
        hasattr(made, "__path__") and find_spec(f"{module}.{name}") is not None
    )


def test_every_name_that_a_script_imports_exists() -> None:
    scripts = sorted(BENCHMARKS.rglob("*.py"))
    named = [(each, script.name) for script in scripts for each in imported(script)]
    assert len(scripts) > 50 and len(named) > 150
    assert [(each, script) for each, script in named if not exists(*each)] == []
