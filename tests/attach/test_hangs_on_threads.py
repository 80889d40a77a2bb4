"""No rank waits for one that will never come: phase x what one rank does instead.

Whatever rank 1 does, every row ends within seconds, with a sentence that names it; no row ends as
if nothing were wrong. On threads, whose library lets ranks that exchange different things wait for
each other in vain; `test_attach_hangs` has rows on real ranks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hanging_ranks import ACTIONS, PHASES, train
from rank_threads import Patient, ThreadWorld

from hpc_localsgd.run.rollcall import leave
from hpc_localsgd.run.rollcall.protocol import failed

TIMEOUT_S = 60.0  # far beyond what is allowed: a wait without end fails the test and does not hang
ROWS = [(phase, action) for phase in PHASES for action in ACTIONS]


def on_threads(phase: str, action: str) -> list[str]:
    """How each of two ranks ended: its error, or what it did."""
    meeting = Patient(2, TIMEOUT_S)

    def rank(r: int) -> str:
        world = ThreadWorld(meeting, r)
        try:
            train(world, phase, action)
        except SystemExit:
            leave(world)
            return "has left"
        except BaseException as error:
            leave(world, failed(error))
            return f"{type(error).__name__}: {error}"
        leave(world)
        return "ended well"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


@pytest.fixture(scope="module")
def ends() -> dict[tuple[str, str], list[str]]:
    """All rows at once: they only wait."""
    with ThreadPoolExecutor(len(ROWS)) as pool:
        futures = {row: pool.submit(on_threads, *row) for row in ROWS}
        return {row: future.result() for row, future in futures.items()}


@pytest.mark.filterwarnings("ignore:after . local steps all ranks hold the same parameters")
@pytest.mark.parametrize(("phase", "action"), ROWS)
def test_every_row_ends_with_a_sentence(ends, phase: str, action: str) -> None:
    waiting, odd = ends[phase, action]
    assert "rank 1" in waiting, waiting
    assert waiting.startswith(("ConfigurationError", "RuntimeError")), waiting
    if action == "raises":
        assert odd.startswith("ZeroDivisionError")
        assert "has failed (ZeroDivisionError: a fault of rank 1's own data)" in waiting
    elif action == "leaves":
        assert odd == "has left" and "has left the program" in waiting
    elif (phase, action) == ("last", "adds"):
        assert "step() after the run has ended" in odd and "has failed" in waiting
    else:
        assert "out of step" in odd and "out of step" in waiting
