"""The quick way: a process that has collected the tests is forked for every fault.

The fault is then put into the functions that are there, by their code. That is not possible where
it lies outside of functions, and where a function is called while tests are imported, what they
worked out then is without it: such faults are tried anew if they survive here.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from mutants.anew import silence
from mutants.callers import Callers, in_function
from mutants.faults import Fault
from mutants.trial import Outcome, tried
from mutants.watch import Watch, words


class _InChild(BaseException):
    """Leaves the loop over the faults, in the child of one of them."""


class Collected(Watch):
    """Stops where tests are collected; each child of that process continues with a fault."""

    def __init__(self, faults: Sequence[Fault], callers: Callers, jobs: int, results: int) -> None:
        super().__init__()
        self.faults, self.callers, self.jobs, self.results = faults, callers, jobs, results

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Try all faults. In a child: change the functions, and go on with pytest's own loop."""
        for name in {fault.module for fault in self.faults}:
            with suppress(Exception):  # one that needs what is not there is tried anew
                importlib.import_module(name)
        possible = [fault for fault in self.faults if code_of(fault)]
        try:
            for fault, outcome in tried(possible, self._inside, self.jobs):
                line = f"{self.faults.index(fault)} {outcome.name}\n"
                os.write(self.results, line.encode())
        except _InChild:
            self.pytest_collection_modifyitems(session.items)
            return
        os._exit(0)

    def _inside(self, fault: Fault, first: Sequence[str], tell: int) -> None:
        for function, code in code_of(fault):
            function.__code__, function.__defaults__, function.__kwdefaults__ = code
        super().__init__(first, fault.path.stem, tell, self.callers.of(fault))
        raise _InChild


def quickly(
    faults: Sequence[Fault], tests: Sequence[str], callers: Callers, jobs: int
) -> Iterator[tuple[Fault, Outcome]]:
    """Those faults of which something is known in this way, as they end."""
    inside = [fault for fault in faults if in_function(fault)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            silence()
            plugin = Collected(inside, callers, jobs, writer)
            os._exit(int(pytest.main([*words(tests), "-s"], plugins=[plugin])))
        finally:
            os._exit(3)
    os.close(writer)
    with os.fdopen(reader) as results:
        for line in results:
            place, name = line.split()
            fault, outcome = inside[int(place)], Outcome[name]
            if outcome is not Outcome.SURVIVED or callers(fault) is not None:
                yield fault, outcome
    os.waitpid(child, 0)


def code_of(fault: Fault) -> list[tuple[types.FunctionType, Any]]:
    """The functions of an imported module that differ, and what they are with the fault.

    Empty where more than code differs, or the module is not there.
    """
    module = sys.modules.get(fault.module)
    if module is None:
        return []
    new = types.ModuleType(fault.module)
    new.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(compile(fault.text, str(fault.path), "exec"), new.__dict__)
    now, found = dict(_functions(vars(new), fault.module)), []
    for name, old in _functions(vars(module), fault.module):
        if name not in now or old.__code__.co_freevars != now[name].__code__.co_freevars:
            return []
        if _parts(old) != _parts(now[name]):
            found.append((old, _parts(now[name])))
    return found


def _parts(function: types.FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _functions(names: Any, module: str) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions that a module defines, those of its classes too, by their full names."""
    for value in list(names.values()):
        if isinstance(value, type) and value.__module__ == module:
            yield from _functions(vars(value), module)
            continue
        for wrapped in ("__func__", "fget", "func"):
            value = getattr(value, wrapped, value)
        while hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        written = isinstance(value, types.FunctionType) and value.__module__ == module
        if written and "<" not in value.__code__.co_filename:
            yield value.__qualname__, value
