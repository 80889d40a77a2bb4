"""Runs a test that asks for `codec` once for every codec of the folder: there is no list to keep.

`carrying` is the same with error feedback switched on, `elementwise` those that code each number by
itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace
from typing import Any, get_origin

import pytest

from hpc_localsgd import compressors
from hpc_localsgd.compressors import Compressor


def _found() -> list[Any]:
    """Each codec of the folder with its defaults."""
    names = [m.name for m in pkgutil.iter_modules(compressors.__path__)]
    modules = [importlib.import_module(f"{compressors.__name__}.{name}") for name in names]
    values = [c for m in modules for c in vars(m).values()]
    # To Python 3.10 `tuple[int]` is a class.
    classes = [c for c in values if inspect.isclass(c) and get_origin(c) is None]
    codecs = {c for c in classes if issubclass(c, Compressor) and not inspect.isabstract(c)}
    return [c() for c in sorted(codecs, key=lambda c: c.__name__)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "codec" in metafunc.fixturenames:
        metafunc.parametrize("codec", _found(), ids=repr)
    if "elementwise" in metafunc.fixturenames:
        metafunc.parametrize("elementwise", [c for c in _found() if c.elementwise], ids=repr)
    if "carrying" in metafunc.fixturenames:
        metafunc.parametrize(
            "carrying", [replace(c, error_feedback=True) for c in _found()], ids=repr
        )
