"""One fault, one process: the tests with a changed module in place of the file."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from importlib.machinery import ModuleSpec
from typing import Any

from mutants.faults import Fault
from mutants.targets import ROOT

LEAST_S = 60.0  # before a fault counts as one that makes a loop endless


class Outcome(Enum):
    """What the tests said."""

    DIED = "died"
    LIVED = "LIVED"
    ENDLESS = "endless"


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


def preload(tests: Sequence[str]) -> bool:
    """Run tests without a fault, in a child, and import here all it needed that is not ours.

    Every fault's process then begins with torch and the others loaded, which takes seconds.

    Returns:
        Whether the tests passed.
    """
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    began_s = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(None, tests, tell=writer)
    os.close(writer)
    with os.fdopen(reader) as told:
        names = told.read().split()
    _, status = os.waitpid(child, 0)
    Trial.timeout_s = LEAST_S + 5 * (time.monotonic() - began_s)
    for name in names:
        with suppress(Exception):  # parts of packages that are not made to be imported alone
            importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return os.waitstatus_to_exitcode(status) == 0


def _theirs() -> list[str]:
    """Modules of other packages that are loaded."""
    places = ((name, getattr(module, "__file__", None)) for name, module in sys.modules.items())
    return [name for name, place in places if place and "site-packages" in place]


class Trial:
    """Tests with a fault, in a child process that begins now.

    Attributes:
        timeout_s: Five times what the tests take without a fault, on this machine and now.
    """

    timeout_s = LEAST_S

    def __init__(self, fault: Fault, tests: Sequence[str]) -> None:
        self.fault, self._end = fault, time.monotonic() + self.timeout_s
        self._child = os.fork()
        if self._child == 0:
            os.setsid()
            _run(fault, tests)

    def outcome(self) -> Outcome | None:
        """What came of it; None while it runs. Not to be asked again after that."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._leave_nothing()
            return Outcome.LIVED if os.waitstatus_to_exitcode(status) == 0 else Outcome.DIED
        if time.monotonic() < self._end:
            return None
        self._leave_nothing()
        os.waitpid(self._child, 0)
        return Outcome.ENDLESS

    def _leave_nothing(self) -> None:
        """End what the tests started and the child, which ends without ceremony, did not."""
        with suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)


def tried(
    faults: Sequence[Fault], tests: Sequence[str], jobs: int = 1
) -> Iterator[tuple[Fault, Outcome]]:
    """Every fault with what came of it, as they end, `jobs` at a time."""
    waiting, running = list(reversed(faults)), list[Trial]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(Trial(waiting.pop(), tests))
        time.sleep(0.02)
        for trial in list(running):
            outcome = trial.outcome()
            if outcome is not None:
                running.remove(trial)
                yield trial.fault, outcome


def _run(fault: Fault | None, tests: Sequence[str], tell: int | None = None) -> None:
    """In the child; never returns. What was imported is told to a descriptor."""
    code = 3
    try:
        import pytest

        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        if fault is not None:
            sys.meta_path.insert(0, Changed(fault))
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--timeout=30", *tests]))
        if tell is not None:
            with os.fdopen(tell, "w") as file:
                file.write("\n".join(_theirs()))
    finally:
        os._exit(code)
