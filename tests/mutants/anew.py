"""The sure way: pytest starts over for every fault, and imports the changed text for the file."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from mutants.callers import Callers
from mutants.faults import Fault
from mutants.targets import ROOT
from mutants.trial import LEAST_S, Inside, Trial
from mutants.watch import Traced, Watch, words


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a text."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.fault.module:
            return None
        folder = self.fault.path.name == "__init__.py"
        spec = importlib.util.spec_from_file_location(
            name,
            self.fault.path,
            loader=self,
            submodule_search_locations=[str(self.fault.path.parent)] if folder else None,
        )
        return spec

    def exec_module(self, module: Any) -> None:
        exec(compile(self.fault.text, str(self.fault.path), "exec"), module.__dict__)


def anew(tests: Sequence[str], callers: Callers) -> Inside:
    """What a child does: all of the tests that may notice, from the beginning."""
    return lambda fault, first, tell: _run(
        tests, Watch(first, fault.path.stem, tell, callers(fault)), fault
    )


def preload(tests: Sequence[str], files: Sequence[Path]) -> Callers:
    """Run tests without a fault, in a child, and import here all it needed that is not ours.

    Every fault's process then begins with torch and the others loaded, which takes seconds.

    Args:
        tests: Words for pytest.
        files: Those that will have faults.

    Returns:
        Who calls what in them.

    Raises:
        SystemExit: A test failed.
    """
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    began_s = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(tests, Traced([str(path) for path in files], writer))
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    Trial.timeout_s = LEAST_S + 3 * (time.monotonic() - began_s)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"a test fails without any fault: {next(iter(said), 'none could be run')}")
    names, calls = json.loads(said[-1])
    for name in names:
        with suppress(Exception):  # parts of packages that are not made to be imported alone
            importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return Callers(calls)


def _theirs() -> list[str]:
    """Modules of other packages that are loaded."""
    places = ((name, getattr(module, "__file__", None)) for name, module in sys.modules.items())
    return [name for name, place in places if place and "site-packages" in place]


def silence() -> None:
    """Nothing that tests write is seen."""
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)


def _run(tests: Sequence[str], watch: Watch, fault: Fault | None = None) -> None:
    """In the child; never returns. The test that fails is told, without a fault what was loaded."""
    code = 3
    try:
        silence()
        if fault is not None:
            sys.meta_path.insert(0, Changed(fault))
        code = int(pytest.main(words(tests), plugins=[watch]))
        if isinstance(watch, Traced) and watch.tell is not None:
            sys.settrace(None)
            calls = [(*place, sorted(names)) for place, names in watch.calls.items()]
            with os.fdopen(watch.tell, "w") as told:
                told.write(json.dumps([_theirs(), calls]) + "\n")
    finally:
        os._exit(code)
