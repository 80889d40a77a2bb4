"""What ranks say to each other, and how it is written on a line. No threads, no sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

OUT_OF_STEP = 2  # exit status: a fault of the script, which will not go away
FAILED = "has failed"  # how a rank that ends by an error ends its run; it may not happen again
LEFT = "has left the program"
ENDED = "has ended its run"
REMEDY = (
    "every rank must take the same number of steps (as many batches on each: drop_last=True) with "
    "the same backward passes under sync.no_sync(), and call attach(), averaged() and finish() "
    "equally often"
)


def failed(error: BaseException | None) -> str:
    """Describe the end of a rank that ends by an error, also by one that cannot be shown."""
    try:
        said = str(error)[:200]
    except Exception:
        said = "no text"
    return f"{FAILED} ({type(error).__name__}: {said})"


class At(NamedTuple):
    """An operation in which ranks meet, equal on all of them.

    Attributes:
        run: Which call of `attach` it belongs to, counted from 0.
        what: In words, "averaged()".
        t: Steps taken before it.
    """

    run: int
    what: str
    t: int

    def __str__(self) -> str:
        """Write it in words, for a message."""
        which = f" (of attach number {self.run + 1})" if self.run else ""
        return f"{self.what} after {self.t} steps{which}"


SETTLED = At(-1, "", 0)  # an operation in which ranks met, and that told them what was wrong
NOWHERE = At(-2, "the start", 0)


@dataclass(frozen=True)
class Note:
    """Position of a rank.

    Attributes:
        count: Operations begun so far, this one included.
        at: The last one that was begun.
        inside: Whether it is still in it.
        waited_s: How long it has been in it, a time in which the process was suspended left out.
        gave_up: Whether the library that it waited in has ended the wait with an error.
        ended: The runs (calls of `attach`) that are over here, and how; of many, the last ones.
        left: Why the process ends; empty while it does not.
    """

    count: int = 0
    at: At = NOWHERE
    inside: bool = False
    waited_s: float = 0.0
    gave_up: bool = False
    ended: Mapping[int, str] = field(default_factory=dict)
    left: str = ""

    def to_json(self) -> bytes:
        """Write the note as one line."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def of(said: Mapping[str, Any]) -> Note:
        """Read a note from what `to_json` wrote."""
        run, what, t = said["at"]
        return Note(
            int(said["count"]),
            At(int(run), str(what), int(t)),
            bool(said["inside"]),
            float(said["waited_s"]),
            bool(said["gave_up"]),
            {int(number): str(how) for number, how in said["ended"].items()},
            str(said["left"]),
        )

    def absence(self, run: int) -> str:
        """Say why this rank joins no more operations of a run; "" if it may."""
        return self.left or self.ended.get(run, "")


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
        """Write the verdict as one line."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def of(said: Mapping[str, Any]) -> Verdict:
        """Read a verdict from what `to_json` wrote."""
        ranks = tuple(int(rank) for rank in said["ranks"])
        return Verdict(str(said["said"]), int(said["status"]), ranks)


def read(line: bytes) -> Note | Verdict:
    """Read a line that `to_json` of either wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        said = json.loads(line)
        return Verdict.of(said) if "said" in said else Note.of(said)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"neither note nor verdict: {line[:80]!r}") from error
