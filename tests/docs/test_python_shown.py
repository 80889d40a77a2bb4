"""Python on the pages: it parses, its imports exist, and what is marked `<!-- runs -->` runs."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pages
import pytest

from hpc_localsgd.train import main

MARKED = re.compile(r"^<!-- runs -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNABLE = [page for page in pages.PAGES if MARKED.search(page.read_text())]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_names_that_it_imports_exist(page: Path) -> None:
    for code in pages.blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hpc_localsgd"):
                for alias in node.names:
                    assert hasattr(import_module(str(node.module)), alias.name), f"{page.name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the pages read."""
    folder = tmp_path_factory.mktemp("pages")
    options = ("--workers=2", "--steps=4", "--figures=false", f"--out={folder}/runs/local")
    assert main([*options, "--task.hidden=8"]) == 0
    return folder


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_what_is_marked_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for code in MARKED.findall(page.read_text()):
        exec(code, names)


def test_something_is_marked() -> None:
    assert RUNNABLE
