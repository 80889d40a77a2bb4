"""An exchange is counted when it begins, and timed when it has ended well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hpc_localsgd.errors import Unreachable
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.transport import Alone


class Two(Alone):
    """Of two ranks, whose exchange takes two seconds of a clock, or fails after them."""

    n = 2

    def __init__(self) -> None:
        self.now, self.error = 0.0, None

    def average(self, v: torch.Tensor, ranks: int) -> None:
        self.now += 2.0
        if self.error is not None:
            raise self.error

    def lost(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)


class Pair(World):
    def __repr__(self) -> str:
        return "a pair"


class Clock:
    def __init__(self, transport: Two) -> None:
        self._transport = transport

    def stamp(self) -> float:
        return self._transport.now

    def between(self, begin: float, end: float) -> float:
        return end - begin


def pair() -> tuple[World, Any]:
    transport: Any = Two()
    world = Pair(None, transport, torch.device("cpu"))
    world.ledger.clock = Clock(transport)  # type: ignore[assignment]
    return world, transport


def test_one_that_ends_well_is_timed() -> None:
    world, _ = pair()
    world.mean(torch.zeros(1, 3))
    assert world.ledger.exchanges == 1 and world.ledger._transfers == [(0.0, 2.0)]


@pytest.mark.parametrize(
    ("error", "seen"), [(ConnectionError("reset"), Unreachable), (ValueError("no"), ValueError)]
)
def test_one_that_fails_is_counted_and_not_timed(error: Exception, seen: type) -> None:
    world, transport = pair()
    transport.error = error
    with pytest.raises(seen):
        world.mean(torch.zeros(1, 3))
    assert world.ledger.exchanges == 1 and world.ledger._transfers == []
