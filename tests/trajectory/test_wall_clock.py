"""How long a run took by the clock: to the last flush, over all its files, in old files too."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from hpc_localsgd.trajectory import Header, Trajectory, Writer, writer
from hpc_localsgd.trajectory.wall_clock import wall_s

SAID = ("seed: 1", "digits", "local_sgd()", "every(8)", "simulated(2)")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test turns on."""
    now = SimpleNamespace(s=1000.0)
    stopped = SimpleNamespace(monotonic=lambda: now.s, time=time.time)
    monkeypatch.setattr(writer, "time", stopped)
    return now


def header(t0: int = 0) -> Header:
    return Header(*SAID, K=2, P=3, seed=1, t0=t0)


def test_seconds_until_the_last_flush_are_kept(tmp_path: Path, clock: SimpleNamespace) -> None:
    record = Writer(tmp_path, header(), flush_every_s=1e9)
    clock.s += 7.5
    record.series("spread", 1, 0.5)
    record.flush()
    clock.s += 100  # nothing more is written: as if it were killed here
    assert Trajectory(tmp_path).attrs["wall_s"] == 7.5
    record.close()
    assert Trajectory(tmp_path).attrs["wall_s"] == 107.5


@pytest.mark.parametrize("mode", ["resume", "append"])
def test_a_run_that_goes_on_adds_up(tmp_path: Path, clock: SimpleNamespace, mode: str) -> None:
    for t0, seconds in ((0, 5.0), (8, 2.0)):
        record = Writer(tmp_path, header(t0), mode=mode if t0 else "new")  # type: ignore[arg-type]
        clock.s += seconds
        record.series("spread", t0 + 8, 0.5)
        record.close()
        clock.s += 1000  # between a stop and the resumption nobody trains
    assert Trajectory(tmp_path).attrs["wall_s"] == 7.0


def test_an_older_file_tells_when_it_was_made_and_closed(tmp_path: Path) -> None:
    Writer(tmp_path, header()).close()
    with h5py.File(tmp_path / "trajectory.h5", "r+") as file:
        del file.attrs["wall_s"]
        file.attrs["created"] = "2025-01-31T12:00:00+00:00"
        file.attrs["closed"] = "2025-01-31T13:00:30+00:00"
    assert Trajectory(tmp_path).attrs["wall_s"] == 3630


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"created": "2025-01-31T12:00:00+00:00", "closed": ""},
        {"created": "2025-01-31T12:00:00+00:00", "closed": "2025-01-30T12:00:00+00:00"},
        {"created": "2025-01-31T12:00:00+00:00", "closed": "2025-01-31T12:00:00"},
        {"wall_s": "long"},
        {"wall_s": -1.0},
        {"wall_s": math.inf},
    ],
)
def test_what_is_no_duration_is_not_known(attrs: dict[str, object]) -> None:
    assert math.isnan(wall_s([{"wall_s": 1.0}, attrs]))
