"""While a rank waits in Horovod its other threads run: the watchdog's, and who hears signals."""

from __future__ import annotations

from pathlib import Path

from launching import mpirun, run

SCRIPT = str(Path(__file__).parent / "frozen_fellow.py")


def test_a_thread_runs_while_another_waits_in_horovod_for_a_rank_that_is_frozen() -> None:
    """An older build stops here: `python -m hpc_localsgd.environment.horovod` makes today's."""
    assert run(mpirun(2), [SCRIPT], timeout_s=60).succeeded().stdout.count("a thread runs") == 1
