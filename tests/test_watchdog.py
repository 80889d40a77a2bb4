"""The watchdog of a rank, as the thread that looks once a second sees it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from small_runs import small_run

from hpc_localsgd.checkpoint import Checkpoints, Keeper
from hpc_localsgd.stopping import Stopping
from hpc_localsgd.watchdog import Watchdog


def test_it_looks_before_the_first_step_and_the_thread_lives(tmp_path: Path) -> None:
    """A slow start takes longer than the second after which the thread looks for the first time."""
    run = small_run()
    keeper = Keeper(run, Checkpoints(tmp_path, run.world))
    two: Any = SimpleNamespace(n=2, rank=0)
    Watchdog(keeper, two, Stopping(), tmp_path, longest=16, least_s=60).look()
    assert not keeper.begun
