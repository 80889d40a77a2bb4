"""The cost model fitted to exchanges that were measured: one network, or a cost of each kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from hpc_localsgd.cost.cost_model import Cost, Network, Piece
from hpc_localsgd.errors import ConfigurationError

LEAST_OF_A_PIECE, MOST_PIECES = 2, 3  # sizes, and protocols: short, long, in between
WORTH_A_PIECE = 0.5  # of the error that remains without it
GOOD_ENOUGH = 0.08  # relative: below it, more pieces would fit the noise


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


def fit_network(
    sizes_bytes: Sequence[float],
    seconds: Sequence[float],
    *,
    messages: float | Sequence[float] = 1,
    name: str = "measured",
) -> Network:
    """Fit a network to measured seconds, by the least relative squares.

        minimise sum_i ((alpha messages_i + beta size_i - seconds_i) / seconds_i)^2

    over alpha, beta >= 0.

    Relative, because the short exchanges, which tell alpha, are lost among the long ones otherwise.

    Args:
        sizes_bytes: Bytes a worker put on the wire in each measurement.
        seconds: How long each took.
        messages: Messages one after another in each of them; one figure if it is the same.
        name: Of the network.

    Raises:
        ConfigurationError: Fewer than two different sizes, or a time that is not positive.
    """
    size, took = np.asarray(sizes_bytes, dtype=float), np.asarray(seconds, dtype=float)
    if len(np.unique(size)) < 2 or not (took > 0).all():
        raise ConfigurationError(
            "a network is fitted to positive seconds of at least two different sizes, "
            f"got {list(sizes_bytes)} bytes and {list(seconds)} s"
        )
    per_message, per_byte = np.asarray(messages, dtype=float) / took, size / took
    columns = np.stack([per_message, per_byte], axis=1)
    alpha, beta = np.linalg.lstsq(columns, np.ones(len(took)), rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, per_byte.sum() / np.square(per_byte).sum()
    elif beta <= 0:
        alpha, beta = per_message.sum() / np.square(per_message).sum(), 0.0
    return Network(name, float(alpha), float(1 / beta) if beta > 0 else float("inf"))


def fitted(cells: Sequence[Cell]) -> dict[str, Cost]:
    """Return the cost of every kind, by least squares of the logarithm.

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
    """Fit one piece, or more where that is not good enough and each more halves the error."""
    sizes = np.array([cell.payload_bytes for cell in cells], dtype=float)
    own = np.array([cell.own_s for cell in cells])
    gamma = float(sizes @ own / (sizes @ sizes))  # the long ones tell it
    best = _pieces(cells, gamma, [math.inf])
    for more in range(1, MOST_PIECES):
        ends = combinations(sorted(set(sizes))[LEAST_OF_A_PIECE - 1 : -LEAST_OF_A_PIECE], more)
        tried = [_pieces(cells, gamma, [*e, math.inf]) for e in ends if _apart(e, sizes)]
        better = min(tried, key=lambda cost: rms(cost, cells), default=best)
        wrong = rms(best, cells)
        if wrong > GOOD_ENOUGH and rms(better, cells) < WORTH_A_PIECE * wrong:
            best = better
    return replace(best, off=rms(best, cells))


def _apart(ends: Sequence[float], sizes: np.ndarray) -> bool:
    """Tell whether each piece has sizes enough."""
    distinct = np.unique(sizes)
    counts = np.diff([0, *(int((distinct <= end).sum()) for end in ends), len(distinct)])
    return bool((counts >= LEAST_OF_A_PIECE).all())


def _pieces(cells: Sequence[Cell], gamma: float, ends: Sequence[float]) -> Cost:
    begin, pieces = -math.inf, []
    for end in ends:
        part = [cell for cell in cells if begin < cell.payload_bytes <= end]
        pieces.append(_piece(part, gamma, end))
        begin = end
    return Cost(tuple(pieces), gamma)


def _piece(cells: Sequence[Cell], gamma: float, up_to: float) -> Piece:
    """Fit what is left of the seconds without a rank's own computing, a tenth at least.

    By least squares of the logarithm of predicted / measured: half as long is as wrong as twice.
    """
    from scipy.optimize import least_squares

    left = np.array([max(c.seconds - gamma * c.payload_bytes, 0.1 * c.seconds) for c in cells])
    messages = np.array([cell.messages for cell in cells], dtype=float)
    wire = np.array([cell.wire_bytes for cell in cells], dtype=float)
    start = fit_network(list(wire), list(left), messages=list(messages))
    least = np.array([left.min() / messages.max(), left.min() / wire.max()]) * 1e-6  # as good as 0
    begin = np.maximum([start.latency_s, 1 / start.bytes_per_s], least)

    def wrong(logarithms: np.ndarray) -> np.ndarray:
        alpha, beta = np.exp(logarithms)
        return np.log((alpha * messages + beta * wire) / left)

    alpha, beta = np.exp(least_squares(wrong, np.log(begin)).x)
    return Piece(up_to, float(alpha), float(beta))


def rms(cost: Cost, cells: Sequence[Cell]) -> float:
    """Return the root mean square of ln(predicted / measured) of cells of one kind."""
    ratios = 1 + np.array(errors({cells[0].kind: cost}, cells))
    return float(np.sqrt(np.mean(np.square(np.log(ratios)))))
