"""The trainer's loop, stopped wherever a measurement wants it."""

from __future__ import annotations

from contextlib import suppress

from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.recorder import Recorder


class _Enough(Exception):
    """The run has come to where it is stopped."""


def trained(run: Run, p: Position, record: Recorder, t: int) -> Position:
    """Train from p to step t, in the middle of a round perhaps; return where the run is then."""
    places = [p]

    def keep(p: Position) -> None:
        places[0] = p
        if p.t == t:
            raise _Enough

    with suppress(_Enough):
        return train(run, p, record, keep)
    return places[0]
