"""The timeline of a run as a trace that Perfetto and Chrome open: https://ui.perfetto.dev.

The format is the Trace Event Format: a JSON object with a list of events, times in microseconds. A
host is a process of the trace, a worker a thread of it; rounds are slices, H, the learning rate and
the consensus distance are counters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis.own_files import put_ours
from hpc_localsgd.analysis.style import MADE_BY
from hpc_localsgd.analysis.timeline import KINDS, Timeline, timeline
from hpc_localsgd.trajectory import TrajectoryError

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Trajectory

NAMES = {"compute_s": "compute", "wait_s": "wait", "transfer_s": "transfer"}
_COLOURS = {  # of Chrome
    "compute_s": "thread_state_running",
    "wait_s": "thread_state_runnable",
    "transfer_s": "thread_state_iowait",
}


def write_trace(run: Trajectory, path: Path) -> Path:
    """Write the trace of a run; return the file.

    Args:
        run: The run.
        path: Of the file, replaced if it exists.

    Raises:
        OSError: It cannot be written.
    """
    found = timeline(run)
    about = {
        "by": MADE_BY,
        "clock": str(run.attrs["clock"]),
        "time": "of training: what lies between rounds (evaluation, checkpoints) is left out",
    }
    with put_ours(path) as unborn, unborn.open("w", encoding="utf-8") as file:
        file.write(
            f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)}, "traceEvents": [\n'
        )
        # One by one: there may be millions.
        for i, event in enumerate(_events(run, found)):
            file.write((",\n" if i else "") + json.dumps(event))
        file.write("\n]}\n")
    return path


def _events(run: Trajectory, found: Timeline) -> Iterator[dict[str, Any]]:
    for worker, name in enumerate(found.names):
        yield _event("M", "thread_name", worker, args={"name": name})
    yield _event("M", "process_name", 0, args={"name": str(run.attrs["algorithm"])})
    steps = run.rounds
    for i, number in enumerate(found.rounds):
        about = {"round": int(number), "H": int(steps.local_steps[i]), "lr": float(steps.lr[i])}
        for kind in KINDS:
            for k in np.flatnonzero(found.long_s[kind][i] > 0):
                begin, long = found.begin_s[kind][i, k], found.long_s[kind][i, k]
                yield _event("X", NAMES[kind], int(k), begin, long, about, _COLOURS[kind])
        yield from _counters(i, found, about)
    yield from _distances(run, found)


def _counters(i: int, found: Timeline, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begin = np.nanmin(found.begin_s["compute_s"][i])
    if np.isfinite(begin):
        yield _event("C", "H", 0, begin, args={"H": about["H"]})
        if np.isfinite(about["lr"]):
            yield _event("C", "learning rate", 0, begin, args={"lr": about["lr"]})


def _distances(run: Trajectory, found: Timeline) -> Iterator[dict[str, Any]]:
    """Yield the consensus distance at the ends of the rounds in which it was measured."""
    try:
        spread = run.series("spread")
    except TrajectoryError:
        return
    ends = found.begin_s["transfer_s"] + found.long_s["transfer_s"]
    row = {int(end): i for i, end in enumerate(run.rounds.step_end)}
    for step, value in zip(spread.step, spread.value, strict=True):
        i = row.get(int(step))
        if i is not None and np.isfinite(value) and np.isfinite(ends[i]).any():
            at = float(np.nanmax(ends[i]))
            yield _event("C", "consensus distance", 0, at, args={"spread": float(value)})


def _event(
    phase: str,
    name: str,
    worker: int,
    begin_s: float | None = None,
    long_s: float | None = None,
    args: dict[str, Any] | None = None,
    colour: str = "",
) -> dict[str, Any]:
    found: dict[str, Any] = {"ph": phase, "name": name, "pid": 0, "tid": worker}
    if begin_s is not None:
        found["ts"] = round(1e6 * float(begin_s), 3)
    if long_s is not None:
        found["dur"] = round(1e6 * float(long_s), 3)
    if colour:
        found["cname"] = colour
    return found | {"args": args or {}}
