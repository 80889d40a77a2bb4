"""This rank's part of an exchange: timed, and its errors explained.

Entered in every step of parallel SGD, right after computing has filled the caches with something
else. Plain classes, because generators as contexts cost there what a small exchange itself does.
"""

from __future__ import annotations

import re
import socket
from types import TracebackType
from typing import TYPE_CHECKING

from hpc_localsgd.errors import Unreachable

if TYPE_CHECKING:
    from hpc_localsgd.worlds.ledger import Transfer
    from hpc_localsgd.worlds.transport import Transport


class ExchangeScope:
    """Context of an operation that needs the other ranks; explains its errors."""

    __slots__ = ("_rank", "_transfer", "_transport")

    def __init__(self, transport: Transport, rank: int, transfer: Transfer | None = None) -> None:
        """Prepare.

        Args:
            transport: Knows its library's errors.
            rank: This one.
            transfer: Times the body as an exchange; None if it is none.
        """
        self._transport, self._rank, self._transfer = transport, rank, transfer

    def __enter__(self) -> None:
        """Begin to time."""
        if self._transfer is not None:
            self._transfer.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop timing.

        Raises:
            Unreachable: The body failed because ranks do not reach each other.
        """
        if self._transfer is not None:
            self._transfer.__exit__(kind, error, trace)
        if isinstance(error, Exception) and self._transport.lost(error):
            raise Unreachable(
                f"rank {self._rank} on {socket.gethostname()} does not reach the others: one has "
                f"ended, or the network between them is down ({_in_short(error)})"
            ) from error


def _in_short(error: Exception) -> str:
    """Return the first sentence of a library's message, without the place in its source."""
    return re.sub(r"^\[\S+:\d+\] ", "", " ".join(str(error).split())).split(". ")[0][:200]
