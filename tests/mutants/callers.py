"""Which tests call the function that has a fault: the others cannot notice it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache

from mutants.faults import Fault

_DEF = (ast.FunctionDef, ast.AsyncFunctionDef)


class Callers:
    """From a run of the tests without a fault.

    Args:
        calls: File, line in which a function begins, the tests that call it.
    """

    def __init__(self, calls: Iterable[tuple[str, int, list[str]]]) -> None:
        self._calls = list(calls)

    def __call__(self, fault: Fault) -> set[str] | None:
        """Tests, or files of tests, that may notice; None for all."""
        found = self.of(fault)
        return None if found is None or "" in found else found

    def of(self, fault: Fault) -> set[str] | None:
        """Those that call the function, \"\" if it is called on import; None outside functions."""
        inside = in_function(fault)
        if inside is None:
            return None
        path, lines = str(fault.path), inside
        names = [set(by) for file, line, by in self._calls if file == path and line in lines]
        return set[str]().union(*names)


def in_function(fault: Fault) -> range | None:
    """The lines of the function that differs, where nothing outside of functions does."""
    source = fault.path.read_text()
    if _outside(source) != _outside(fault.text):
        return None
    return next((lines for lines in _functions(source) if fault.line in lines), None)


@cache
def _functions(source: str) -> list[range]:
    """Those of modules and classes, from the first decorator on."""
    found, waiting = [], [*ast.parse(source).body]
    for node in waiting:
        if isinstance(node, _DEF):
            begin = min(d.lineno for d in [node, *node.decorator_list])
            found.append(range(begin, (node.end_lineno or begin) + 1))
        elif isinstance(node, ast.ClassDef):
            waiting += node.body
    return found


@cache
def _outside(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DEF):
            node.body, node.args = [], ast.arguments([], [], None, [], [], None, [])
    return ast.dump(tree)
