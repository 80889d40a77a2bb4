"""Averages in place, in parts, and several of one length under way, in every world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from launching import gloo, horovodrun, mpirun, run, torchrun

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).with_name("averages.py"))


@pytest.mark.parametrize(
    ("launcher", "ranks", "world"),
    [
        (mpirun, 2, "mpi"),
        (mpirun, 4, "mpi"),
        (horovodrun, 2, "horovod"),
        (gloo, 2, "horovod"),
        (torchrun, 2, "torch"),
    ],
)
def test_averages(launcher: Callable[[int], Sequence[str]], ranks: int, world: str) -> None:
    assert "averaged" in run(launcher(ranks), [SCRIPT, world]).succeeded().text
