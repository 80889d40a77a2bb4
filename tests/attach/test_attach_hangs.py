"""Ranks that miss each other end, on ranks of real launchers, with a sentence that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launching import gloo, mpirun, run, torchrun

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).with_name("hanging_ranks.py"))


@pytest.mark.parametrize(
    ("launcher", "world", "phase", "action"),
    [
        (mpirun, "mpi", "H=1", "adds"),
        (mpirun, "horovod", "H=1", "leaves"),
        (gloo, "horovod", "H=1", "evaluates"),
        (torchrun, "torch", "H=1", "skips"),
    ],
)
def test_no_hang(launcher: Callable[[int], list[str]], world: str, phase: str, action: str) -> None:
    outcome = run(launcher(2), [SCRIPT, world, phase, action])
    assert outcome.status != 0 and "nothing was noticed" not in outcome.text
    assert "rank 1" in outcome.text, outcome.text[-2000:]
    assert "mean model was shown" not in outcome.text
