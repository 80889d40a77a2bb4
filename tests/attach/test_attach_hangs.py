"""Ranks that miss each other end, in processes of their own, with a sentence that names them.

The whole table is in `test_hangs_on_threads`; here is every world and every action, one job each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launching import forked, gloo, mpirun, run

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).with_name("hanging_ranks.py"))
COMPARED = ("H>1:skips", "H>1:adds", "H>1:evaluates", "H>1:saves")  # all ranks raise an exception


@pytest.mark.parametrize(
    ("launcher", "world", "last", "said"),
    [
        (mpirun, "mpi", "H=1:evaluates", "rank 1 in averaged() after 6 steps"),
        (mpirun, "horovod", "H>1:leaves", "rank 0: the ranks are out of step: rank 1 has left"),
        (gloo, "horovod", "H=1:skips", "rank 1 in averaged() after 9 steps"),
        (forked, "torch", "last:raises", "a fault of rank 1's own data"),
    ],
)
def test_no_hang(launcher: Callable[[int], list[str]], world: str, last: str, said: str) -> None:
    outcome = run(launcher(2), [SCRIPT, world, *COMPARED, last])
    text = outcome.text
    assert outcome.status != 0 and "nothing was noticed" not in text
    for row in COMPARED:
        told = [line for line in text.splitlines() if f"{row} ended: the ranks are out of" in line]
        assert len(told) == 2 and "rank 1" in told[0], text[-3000:]
    assert said in text, text[-3000:]
    assert "mean model was shown" not in text
