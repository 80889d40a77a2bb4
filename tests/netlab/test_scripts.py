"""The scripts that measure are run by hand: at least what they import from the package is there."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_every_name_that_a_script_imports_exists(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hpc_localsgd"):
            module = import_module(node.module or "")
            for alias in node.names:
                there = hasattr(module, alias.name)
                assert there or import_module(f"{node.module}.{alias.name}"), alias.name
