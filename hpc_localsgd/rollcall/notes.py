"""What a rank says of itself, and what follows from what all have said. No threads, no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from hpc_localsgd.stopping import HUNG

OUT_OF_STEP = 2  # exit status: a fault of the script, which will not go away
GONE_S = 5.0  # a process that ended in silence may still have sent what an exchange needs
SILENT_S = 300.0  # a process that says nothing any more
FAILED = "has failed"  # how a rank that ends by an error ends its run; it may not happen again
LEFT = "has left the program"
REMEDY = (
    "every rank must take the same number of steps (as many batches on each: drop_last=True) and "
    "call attach(), averaged() and finish() equally often"
)


def failed(error: BaseException | None) -> str:
    """How a rank ends that ends by an error."""
    return f"{FAILED} ({type(error).__name__}: {str(error)[:200]})"


class At(NamedTuple):
    """An operation in which ranks meet; equal on all of them.

    Attributes:
        sync: Which call of `attach` it belongs to, counted from 0.
        what: In words, "averaged()".
        t: Steps taken before it.
    """

    sync: int
    what: str
    t: int

    def __str__(self) -> str:
        """In words, for a message."""
        which = f" (of attach number {self.sync + 1})" if self.sync else ""
        return f"{self.what} after {self.t} steps{which}"


SETTLED = At(-1, "", 0)  # an operation in which ranks met, and that told them what was wrong
NOWHERE = At(-2, "the start", 0)


@dataclass(frozen=True)
class Note:
    """Where a rank is.

    Attributes:
        count: Operations begun so far, this one included.
        at: The last one that was begun.
        inside: Whether it is still in it.
        waited_s: How long it has been in it.
        made: Calls of `attach` so far.
        ended: Those whose run is over here, and how.
        left: Why the process ends; empty while it does not.
    """

    count: int = 0
    at: At = NOWHERE
    inside: bool = False
    waited_s: float = 0.0
    made: int = 0
    ended: Mapping[int, str] | None = None
    left: str = ""

    def to_json(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(line: bytes) -> Note:
        """What `to_json` wrote.

        Raises:
            ValueError: It did not.
        """
        try:
            said = json.loads(line)
            said["at"] = At(*said["at"])
            said["ended"] = {int(number): str(how) for number, how in said["ended"].items()}
            return Note(**said)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no note: {line[:80]!r}") from error

    def absence(self, sync: int) -> str:
        """Why this rank takes part in no operation of a run any more; empty if it may."""
        if self.left:
            return self.left
        return (self.ended or {}).get(sync, "")


@dataclass(frozen=True)
class Verdict:
    """Why ranks cannot meet any more.

    Attributes:
        said: One sentence, which names the ranks.
        status: With which the job ends.
        ranks: Whom it is about.
    """

    said: str
    status: int
    ranks: tuple[int, ...]

    def to_json(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(line: bytes) -> Verdict:
        """What `to_json` wrote."""
        said = json.loads(line)
        return Verdict(str(said["said"]), int(said["status"]), tuple(said["ranks"]))


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
        """How long the rank has been in an operation; 0 if it is in none."""
        return self.note.waited_s + self.ago_s if self.note.inside else 0.0


def judge(
    heard: Mapping[int, Heard], past: Callable[[int], At | None], patience_s: float
) -> Verdict | None:
    """Whether some ranks wait for what will never come.

    Args:
        heard: Of every rank that has said something.
        past: The operation that rank 0 had under a number; None if it is long ago or to come.
        patience_s: How long a rank may wait for others that are busy with something else.
    """
    return (
        _out_of_step(heard, past)
        or _left(heard)
        or _gone(heard)
        or _too_long(heard, min(SILENT_S, patience_s), patience_s)
    )


def _out_of_step(heard: Mapping[int, Heard], past: Callable[[int], At | None]) -> Verdict | None:
    """Operations of the same number must be the same on all ranks."""
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
    """Nobody may wait for a rank whose run is over."""
    for waiting, of in sorted(heard.items()):
        for rank, other in sorted(heard.items()):
            how = other.note.absence(of.note.at.sync)
            if how and of.note.inside and of.note.count > other.note.count:
                said = (
                    f"rank {rank} {how}, its last exchange being {other.note.at}, and "
                    f"rank {waiting} waits for it in {of.note.at}"
                )
                if how.startswith(FAILED):
                    return Verdict(said, HUNG, (rank, waiting))
                about = (rank, waiting)
                return Verdict(f"the ranks are out of step: {said}; {REMEDY}", OUT_OF_STEP, about)
    return None


def _gone(heard: Mapping[int, Heard]) -> Verdict | None:
    """A process that ended without a word: killed, or by os._exit."""
    for rank, other in sorted(heard.items()):
        if other.gone_s is None or other.note.left:
            continue
        for waiting, of in sorted(heard.items()):
            over = other.note.absence(of.note.at.sync)
            if not over and min(of.waits_s, other.gone_s) > GONE_S:
                return Verdict(
                    f"the process of rank {rank} has ended without a word (killed?), and "
                    f"rank {waiting} waits for it in {of.note.at}",
                    HUNG,
                    (rank, waiting),
                )
    return None


def _too_long(heard: Mapping[int, Heard], silent_s: float, patience_s: float) -> Verdict | None:
    """A rank has waited longer than one may."""
    waiting = max(heard, key=lambda rank: heard[rank].waits_s, default=None)
    if waiting is None:
        return None
    of, waits_s = heard[waiting].note, heard[waiting].waits_s
    silent = [r for r, other in heard.items() if other.ago_s > silent_s and not other.note.left]
    if waits_s > silent_s and silent:
        what = f"rank {silent[0]} has said nothing for {heard[silent[0]].ago_s:.0f} s"
    elif waits_s > patience_s:
        what = _whereabouts(heard, of) + f"; patience_s={patience_s:g} were allowed"
    else:
        return None
    return Verdict(
        f"rank {waiting} has waited {waits_s:.0f} s in {of.at}: {what}", HUNG, (waiting,)
    )


def _whereabouts(heard: Mapping[int, Heard], of: Note) -> str:
    """Where the ranks are that are not in the same operation; eight at most."""
    others = [r for r, other in sorted(heard.items()) if other.note.count != of.count]
    where = [
        f"rank {r} {'is in' if heard[r].note.inside else 'has done nothing since'} "
        f"{heard[r].note.at}"
        for r in others[:8]
    ]
    return ", ".join(where) or "all ranks are in it, and it does not end"
