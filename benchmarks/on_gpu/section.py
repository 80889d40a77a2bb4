"""What each part of the report gets and gives, and how its seconds are taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured.

    Attributes:
        device: On which.
        quick: Sizes of a trial, which measure nothing worth keeping.
        patience_s: A part leaves out what it has not begun by then, and says so.
    """

    device: torch.device
    quick: bool = False
    patience_s: float = 90.0

    @property
    def on_gpu(self) -> bool:
        """Whether there are events, memory counters and a host that runs ahead."""
        return self.device.type == "cuda"

    def seconds(self, call: Callable[[], Any], calls: int) -> float:
        """Return the seconds of one of so many calls, by the device's own clock."""
        if not self.on_gpu:
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - begin) / calls
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(calls):
            call()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1000 / calls

    def calls(self, call: Callable[[], Any], turn_s: float = 0.2) -> int:
        """Return how many calls last about so long, after a few for warming up."""
        self.seconds(call, 1 if self.quick else 3)
        return 1 if self.quick else max(1, round(turn_s / self.seconds(call, 1)))

    def median(self, call: Callable[[], Any], turns: int = 5) -> float:
        """Return the median seconds of a call."""
        calls = self.calls(call)
        turns = 1 if self.quick else turns
        return statistics.median(self.seconds(call, calls) for _ in range(turns))


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        text: Markdown below the title.
        data: The same numbers, for a program.
        wrong: What is not as it should be, one sentence each.
    """

    text: str
    data: Mapping[str, Any]
    wrong: Sequence[str] = field(default_factory=tuple)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, the first column to the left and numbers to the right."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
