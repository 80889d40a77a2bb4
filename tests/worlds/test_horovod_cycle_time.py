"""Horovod's cycle is short before a script initialises it, where that costs nothing."""

from __future__ import annotations

import importlib
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import hpc_localsgd


@pytest.mark.parametrize(
    ("library", "given", "then"),
    [
        (SimpleNamespace(rests_when_idle=True), None, "0.1"),
        (SimpleNamespace(rests_when_idle=True), "5", "5"),
        (SimpleNamespace(), None, None),  # its thread is awake at every cycle
        (None, None, None),  # the script does not use it
    ],
)
def test_importing_the_package_after_horovod_shortens_its_cycle(
    library: Any, given: str | None, then: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HOROVOD_CYCLE_TIME", given or "")
    if given is None:
        del os.environ["HOROVOD_CYCLE_TIME"]
    operations = None if library is None else SimpleNamespace(mpi_lib=library)
    monkeypatch.setitem(sys.modules, "horovod.torch.mpi_ops", operations)
    importlib.reload(hpc_localsgd)
    assert os.environ.get("HOROVOD_CYCLE_TIME") == then
