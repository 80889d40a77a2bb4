"""The examples in docstrings are run, and every schedule, rate, topology and compressor has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import get_origin

import pytest

import hpc_localsgd
from hpc_localsgd.compressors import Compressor
from hpc_localsgd.schedules.base import Schedule
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.topology import Topology

ROOT = Path(hpc_localsgd.__file__).parent
FILES = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text()]
KINDS = {Schedule: "schedules", Rate: "schedules", Topology: "topology", Compressor: "compressors"}


def _module(path: Path) -> str:
    inside = path.relative_to(ROOT.parent).with_suffix("")
    return ".".join(inside.parts).removesuffix(".__init__")


def _of_kind(kind: type, folder: str) -> list[type]:
    package = importlib.import_module(f"hpc_localsgd.{folder}")
    names = [m.name for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    found = [cls for name in names for cls in vars(importlib.import_module(name)).values()]
    # To Python 3.10 `tuple[int]` is a class.
    classes = {cls for cls in found if isinstance(cls, type) and get_origin(cls) is None}
    made = {cls for cls in classes if issubclass(cls, kind)}
    return sorted((c for c in made if not inspect.isabstract(c)), key=lambda c: c.__name__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: _module(path).partition(".")[2])
def test_the_examples_of_a_file_are_true(path: Path) -> None:
    options = doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(_module(path)), optionflags=options).failed == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_everything_of_a_kind_has_an_example_with_its_result(kind: type) -> None:
    classes = _of_kind(kind, KINDS[kind])
    assert len(classes) >= 3, classes
    for cls in classes:
        examples = doctest.DocTestParser().get_examples(inspect.getdoc(cls) or "")
        assert any(cls.__name__ in e.source for e in examples), f"{cls} has no example"
        assert any(e.want for e in examples), f"the example of {cls} has no result"
