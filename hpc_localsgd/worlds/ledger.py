"""The only clock and the only byte counter of communication.

A world opens `ledger.transferring(...)` around every exchange; nothing else times communication.
What is done for measurement goes inside `ledger.unbilled()` and counts neither as communication nor
as computing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch


@dataclass(frozen=True)
class RoundCost:
    """Bytes and seconds that this rank spent since it was last asked.

    Attributes:
        payload_bytes: [R], what the algorithm asked each worker of this rank to send.
        wire_bytes: What this rank put on the wire for one of its workers, on average.
        calls: Number of exchanges.
        transfer_s: Seconds in exchanges: measured, or modelled if `Ledger.modelled`. A measured
            figure includes waiting for slower ranks; the record splits the two, since the rank
            that arrived last did not wait.
        elsewhere_s: Real seconds that were not computing: exchanges and measurements.
    """

    payload_bytes: np.ndarray
    wire_bytes: float
    calls: int
    transfer_s: float
    elsewhere_s: float


class Ledger:
    """Counter of bytes and seconds of the R workers of one rank.

    Attributes:
        modelled: Whether the seconds of exchanges are predicted instead of measured.
        staged: Whether exchanges go through host memory though the parameters are on a GPU.
        clock: Of the device.
        exchanges: Begun or waited for so far, billed or not. Two ranks with the same number have
            talked as often, which is what makes their places in the run fit together.
    """

    def __init__(self, R: int, device: torch.device, modelled: bool = False) -> None:
        self.R, self.modelled, self.staged = R, modelled, False
        self.exchanges = 0
        self.clock = Clock(device)
        self.unbilled_s = 0.0  # host seconds of measurement since the beginning
        self._billing = True
        self._clear()

    def _clear(self) -> None:
        # A number as long as all workers send as much: numpy's first call in a step is slow.
        self._payload: float | np.ndarray = 0.0
        self._wire, self._calls, self._modelled_s = 0.0, 0, 0.0
        self._transfers: list[Span] = []
        self._measurements: list[Span] = []

    def bill(self, payload_bytes: float | np.ndarray, wire_bytes: float, modelled_s: float) -> None:
        """Count an exchange.

        Args:
            payload_bytes: What the algorithm asked to send: per worker, one figure or [R].
            wire_bytes: What this rank puts on the wire, per worker.
            modelled_s: Predicted seconds, used where nothing real is sent.
        """
        if self._billing:
            self._payload = self._payload + payload_bytes
            self._wire += wire_bytes
            self._modelled_s += modelled_s
            self._calls += 1

    def add_modelled(self, seconds: float) -> None:
        """Add the predicted seconds of an exchange already counted, once they are known."""
        if self._billing:
            self._modelled_s += seconds

    def transferring(self) -> Transfer:
        """Return a context that times its body as this rank's part of an exchange."""
        return Transfer(self)

    def transferred(self, begin: Stamp) -> None:
        """Note that an exchange that began then has ended."""
        if self._billing:
            self._transfers.append((begin, self.clock.stamp()))

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Count nothing of the body, which measures, as training or communication."""
        if not self._billing:  # nested: the outer one times it
            yield
            return
        begin, began_s = self.clock.stamp(), time.perf_counter()
        self._billing = False
        try:
            yield
        finally:
            self._billing = True
            self.unbilled_s += time.perf_counter() - began_s
            self._measurements.append((begin, self.clock.stamp()))

    def take(self) -> OpenRoundCost:
        """Return the cost since the last `take`; its seconds are computed when it is closed."""
        taken = self.so_far()
        self._clear()
        return taken

    def so_far(self) -> OpenRoundCost:
        """Return the cost since the last `take`, which continues."""
        return OpenRoundCost(
            self,
            np.zeros(self.R) + self._payload,
            self._wire,
            self._calls,
            self._modelled_s,
            [*self._transfers],
            [*self._measurements],
        )


class Transfer:
    """Context of one exchange; one that fails is not timed."""

    __slots__ = ("_begin", "_ledger")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        """Count the exchange, and begin to time it."""
        self._ledger.exchanges += 1
        self._begin = self._ledger.clock.stamp()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        if kind is None:
            self._ledger.transferred(self._begin)


@dataclass(frozen=True)
class OpenRoundCost:
    """A cost whose clock may still be running on a GPU."""

    ledger: Ledger
    payload_bytes: np.ndarray
    wire_bytes: float
    calls: int
    modelled_s: float
    transfers: list[Span]
    measurements: list[Span]

    def close(self) -> RoundCost:
        """Return the finished cost. On a GPU this waits for the last exchange to end."""
        clock = self.ledger.clock
        transfer_s = sum(clock.seconds(*span) for span in self.transfers)
        measured_s = sum(clock.seconds(*span) for span in self.measurements)
        shown_s = self.modelled_s if self.ledger.modelled else transfer_s
        elsewhere_s = transfer_s + measured_s
        return RoundCost(self.payload_bytes, self.wire_bytes, self.calls, shown_s, elsewhere_s)


Stamp: TypeAlias = float | torch.cuda.Event
Span: TypeAlias = tuple[Stamp, Stamp]


class Clock:
    """Moments in time: of the host on a CPU, of the device's stream on a GPU.

    On a GPU a stamp is a recorded event, read later, so that timing never stops the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stamp(self) -> Stamp:
        """Return the present moment."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))  # not that of another, current GPU
        return event

    def seconds(self, begin: Stamp, end: Stamp) -> float:
        """Return the seconds from one stamp to another."""
        if isinstance(begin, float) or isinstance(end, float):
            return float(end) - float(begin)  # type: ignore[arg-type]
        end.synchronize()
        return begin.elapsed_time(end) / 1000
