"""What follows from the notes of all ranks: pure functions, of a cost linear in the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hpc_localsgd.run.rollcall.protocol import (
    FAILED,
    OUT_OF_STEP,
    REMEDY,
    SETTLED,
    At,
    Note,
    Verdict,
)
from hpc_localsgd.run.stopping import HUNG

GONE_S = 5.0  # a process that ended in silence may still have sent what an exchange needs
SILENT_S = 30.0  # several signs of life have not come: worth a word, and no reason to end a job


@dataclass(frozen=True)
class Heard:
    """The last note of a rank, and what its connection tells.

    Attributes:
        note: What it said.
        ago_s: How long ago.
        gone_s: How long ago its connection ended; None if it has not.
    """

    note: Note
    ago_s: float = 0.0
    gone_s: float | None = None

    @property
    def waits_s(self) -> float:
        """Seconds for which the rank has been in an operation; 0 if it is in none."""
        return self.note.waited_s + self.ago_s if self.note.inside else 0.0


def judge(
    heard: Mapping[int, Heard], past: Callable[[int], At | None], patience_s: float
) -> Verdict | None:
    """Return a verdict if some ranks wait for what will never come.

    A silent rank does not count as dead: it may be suspended, or in a long computation
    that lets no other thread run. When its process or host dies, its connection ends.

    Args:
        heard: Of every rank that has said something.
        past: The operation that rank 0 had under a number; None if it is long ago or to come.
        patience_s: How long a rank may wait for others that are busy with something else.
    """
    return _out_of_step(heard, past) or _left(heard) or _gone(heard) or _too_long(heard, patience_s)


def _out_of_step(heard: Mapping[int, Heard], past: Callable[[int], At | None]) -> Verdict | None:
    """Compare operations of the same number, which must be the same on all ranks."""
    first: dict[int, tuple[int, At]] = {}
    for rank in sorted(heard):
        count, at = heard[rank].note.count, heard[rank].note.at
        earlier = past(count)
        known = first.setdefault(count, (0, earlier) if earlier is not None else (rank, at))
        if known[1] != at and SETTLED not in (known[1], at):
            said = f"rank {known[0]} is in {known[1]}, rank {rank} in {at}"
            about = (known[0], rank)
            return Verdict(f"the ranks are out of step: {said}; {REMEDY}", OUT_OF_STEP, about)
    return None


def _left(heard: Mapping[int, Heard]) -> Verdict | None:
    """Find a rank whose run is over, and one that waits for it."""
    absent = [r for r, other in sorted(heard.items()) if other.note.left or other.note.ended]
    for waiting in _furthest(heard) if absent else ():
        of = heard[waiting].note
        for rank in absent:
            other = heard[rank].note
            how = other.absence(of.at.run)
            if how and of.count > other.count:
                said = (
                    f"rank {rank} {how}, its last exchange being {other.at}, and "
                    f"rank {waiting} waits for it in {of.at}"
                )
                if how.startswith(FAILED):
                    return Verdict(said, HUNG, (rank, waiting))
                about = (rank, waiting)
                return Verdict(f"the ranks are out of step: {said}; {REMEDY}", OUT_OF_STEP, about)
    return None


def _furthest(heard: Mapping[int, Heard]) -> Iterator[int]:
    """Yield, for every run, the rank that waits in its latest operation."""
    found: dict[int, int] = {}
    for rank, other in sorted(heard.items()):
        if other.note.inside:
            known = found.setdefault(other.note.at.run, rank)
            if other.note.count > heard[known].note.count:
                found[other.note.at.run] = rank
    yield from found.values()


def _gone(heard: Mapping[int, Heard]) -> Verdict | None:
    """Find a process that ended without notice: killed, by os._exit, or with its host."""
    gone = [r for r, other in sorted(heard.items()) if other.gone_s is not None]
    for waiting in _longest(heard) if gone else ():
        of = heard[waiting]
        for rank in gone:
            since_s, other = heard[rank].gone_s or 0.0, heard[rank].note
            enough = of.note.gave_up or min(of.waits_s, since_s) > GONE_S
            if enough and not other.absence(of.note.at.run):
                said = (
                    f"the process of rank {rank} has ended without notice (killed?), and "
                    f"rank {waiting} waits for it in {of.note.at}"
                )
                return Verdict(said, HUNG, (rank, waiting))
    return None


def _longest(heard: Mapping[int, Heard]) -> Iterator[int]:
    """Yield, for every run, the rank that has waited longest; first one whose library gave up."""
    found: dict[int, int] = {}

    def key(rank: int) -> tuple[bool, float]:
        return heard[rank].note.gave_up, heard[rank].waits_s

    for rank, other in sorted(heard.items()):
        if other.note.inside:
            run = other.note.at.run
            found[run] = max(found.get(run, rank), rank, key=key)
    yield from found.values()


def _too_long(heard: Mapping[int, Heard], patience_s: float) -> Verdict | None:
    """Find a rank that has waited longer than its patience."""
    waiting = max(heard, key=lambda rank: heard[rank].waits_s, default=None)
    if waiting is None or heard[waiting].waits_s <= patience_s:
        return None
    of, waits_s = heard[waiting].note, heard[waiting].waits_s
    return Verdict(
        f"rank {waiting} has waited {waits_s:.0f} s in {of.at}: {_whereabouts(heard, of)}; "
        f"patience_s={patience_s:g} were allowed",
        HUNG,
        (waiting,),
    )


def _whereabouts(heard: Mapping[int, Heard], of: Note) -> str:
    """Say where the ranks are that are not in the same operation; eight at most."""
    others = [r for r, other in sorted(heard.items()) if other.note.count != of.count]
    where = [_whereabout(rank, heard[rank]) for rank in others[:8]]
    return ", ".join(where) or "all ranks are in it, and it does not end"


def _whereabout(rank: int, other: Heard) -> str:
    if other.ago_s > SILENT_S:
        return f"rank {rank} has said nothing for {other.ago_s:.0f} s, after {other.note.at}"
    return (
        f"rank {rank} {'is in' if other.note.inside else 'has done nothing since'} {other.note.at}"
    )
