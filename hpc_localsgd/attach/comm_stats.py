"""What an attached run has communicated so far: the costs in its world's ledger, added up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_localsgd.worlds.ledger import Ledger, OpenRoundCost

TAKE_EVERY = 64  # rounds; closing a cost takes as long as a small exchange


@dataclass(frozen=True)
class CommStats:
    """Communication of this rank's worker since attach.

    Attributes:
        payload_bytes: What the algorithm asked to send.
        wire_bytes: What this rank put on the wire.
        calls: Exchanges.
        seconds: In exchanges, waiting for slower ranks included; predicted if `modelled`.
        rounds: Rounds ended.
        modelled: Whether the seconds come from a model of a network.
    """

    payload_bytes: int = 0
    wire_bytes: int = 0
    calls: int = 0
    seconds: float = 0.0
    rounds: int = 0
    modelled: bool = False


class CommCounter:
    """Sum of the costs that a ledger gives, taken every `TAKE_EVERY` rounds.

    Each is closed when the next is taken: by then the events of a GPU have passed, so that reading
    them does not wait.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._sum = ledger, CommStats(modelled=ledger.modelled)
        self._open: OpenRoundCost | None = None
        self._rounds = 0
        ledger.take()  # what was sent before does not count

    def close_round(self) -> None:
        """Count a round."""
        self._rounds += 1
        if self._rounds % TAKE_EVERY == 0:
            self._add(self._ledger.take())

    def until_now(self) -> CommStats:
        """Return everything so far; on a GPU this waits for the last exchange to end."""
        self._add(self._ledger.take())
        self._add(None)
        return replace(self._sum, rounds=self._rounds)

    def _add(self, opened: OpenRoundCost | None) -> None:
        """Add the cost that was open, and keep the new one open."""
        before, self._open = self._open, opened
        if before is None:
            return
        cost = before.close()
        self._sum = replace(
            self._sum,
            payload_bytes=self._sum.payload_bytes + int(cost.payload_bytes.sum()),
            wire_bytes=self._sum.wire_bytes + round(cost.wire_bytes),
            calls=self._sum.calls + cost.calls,
            seconds=self._sum.seconds + cost.transfer_s,
        )
