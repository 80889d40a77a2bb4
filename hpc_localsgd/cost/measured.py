"""The cost model fitted to exchanges that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.cost.cost_model import Cost, Piece, fit

LEAST_OF_A_PIECE = 3  # sizes: two are fitted by any line
WORTH_A_PIECE = 0.5  # of the error that remains with one piece


@dataclass(frozen=True)
class Cell:
    """One exchange of one size, measured.

    Attributes:
        exchange: Its name: the kind, and of a mix the topology.
        size_bytes: Of the vector.
        payload_bytes: Of what stands for it on the wire: itself, or its code.
        messages: A rank sends one after another.
        wire_bytes: A rank sends.
        seconds: It took.
        own_s: Of them what a rank computes for itself, measured alone.
    """

    exchange: str
    size_bytes: int
    payload_bytes: int
    messages: int
    wire_bytes: int
    seconds: float
    own_s: float = 0.0

    @property
    def kind(self) -> str:
        """What the model calls it."""
        return "mix" if self.exchange.startswith("mix") else self.exchange


def fitted(cells: Sequence[Cell]) -> dict[str, Cost]:
    """Return the cost of every kind, in the sense of least relative squares.

    Raises:
        ConfigurationError: A kind was measured at fewer than two sizes.
    """
    kinds = dict.fromkeys(cell.kind for cell in cells)
    return {kind: _cost([cell for cell in cells if cell.kind == kind]) for kind in kinds}


def predicted_s(costs: Mapping[str, Cost], cell: Cell) -> float:
    """Return what the fit says of a cell."""
    return costs[cell.kind].seconds(cell.payload_bytes, cell.messages, cell.wire_bytes)


def errors(costs: Mapping[str, Cost], cells: Sequence[Cell]) -> list[float]:
    """Return (predicted - measured) / measured of every cell."""
    return [predicted_s(costs, cell) / cell.seconds - 1 for cell in cells]


def _cost(cells: list[Cell]) -> Cost:
    sizes = np.array([cell.payload_bytes for cell in cells], dtype=float)
    own = np.array([cell.own_s for cell in cells])
    gamma = float(sizes @ own / (sizes @ sizes))  # the long ones tell it
    whole = Cost((_piece(cells, gamma, math.inf),), gamma)
    best, best_error = whole, WORTH_A_PIECE * _rms(whole, cells)
    for last in sorted(set(sizes))[LEAST_OF_A_PIECE - 1 : -LEAST_OF_A_PIECE]:
        low = [cell for cell in cells if cell.payload_bytes <= last]
        high = [cell for cell in cells if cell.payload_bytes > last]
        split = Cost((_piece(low, gamma, last), _piece(high, gamma, math.inf)), gamma)
        if (error := _rms(split, cells)) < best_error:
            best, best_error = split, error
    return best


def _piece(cells: Sequence[Cell], gamma: float, up_to: float) -> Piece:
    """Fit what is left of the seconds without a rank's own computing, a tenth at least."""
    left = [max(cell.seconds - gamma * cell.payload_bytes, 0.1 * cell.seconds) for cell in cells]
    messages = [cell.messages for cell in cells]
    found = fit([cell.wire_bytes for cell in cells], left, messages=messages)
    return Piece(up_to, found.latency_s, 1 / found.bytes_per_s)


def _rms(cost: Cost, cells: Sequence[Cell]) -> float:
    return float(np.sqrt(np.mean(np.square(errors({cells[0].kind: cost}, cells)))))
