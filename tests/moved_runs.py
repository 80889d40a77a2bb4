"""A run that went on with other ranks is the undisturbed run, and its record is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_localsgd.commands.summary import status
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete, shard_name
from hpc_localsgd.trajectory import Trajectory


def rows(out: Path) -> np.ndarray:
    """The parameters [K, P] of the last checkpoint."""
    found = last_complete(out)
    assert found is not None
    folder, n = found
    return np.concatenate([shard.read(folder / shard_name(r, n))["x"].numpy() for r in range(n)])


def check_same_run(moved: Path, alone: Path, launches: int) -> None:
    """Compare, in float64, the end and the history of a run with one that was left alone."""
    ours, theirs = rows(moved), rows(alone)
    assert ours.dtype == np.float64
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-12
    assert status(moved) == "complete"
    record, whole = Trajectory(moved), Trajectory(alone)
    assert len(record.paths) == launches
    np.testing.assert_array_equal(record.rounds.step_end, whole.rounds.step_end)
    np.testing.assert_array_equal(record.rounds.payload_bytes, whole.rounds.payload_bytes)
    for series in ("train/loss", "spread"):
        np.testing.assert_array_equal(record.series(series).step, whole.series(series).step)
        np.testing.assert_allclose(record.series(series).value, whole.series(series).value, 1e-9)
