"""An average that is under way while its workers keep computing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Vector
    from hpc_localsgd.worlds.ledger import Ledger


class Pending:
    """An average under way. Only the time spent in `wait` counts as communication.

    In a simulated world the modelled seconds run from the beginning of the exchange, and `wait`
    is billed for what is left of them.
    """

    def __init__(
        self, row: torch.Tensor, finish: Callable[[], None], ledger: Ledger, modelled_s: float
    ) -> None:
        self._row, self._finish, self._ledger = row, finish, ledger
        self._modelled_s, self._begun = modelled_s, time.perf_counter() - ledger.unbilled_s
        self._done = False

    def wait(self) -> Vector:
        """Return the average [P]; safe to call more than once."""
        if not self._done:
            with self._ledger.transferring():
                self._finish()
            # Computing hides the exchange, measuring does not; K workers would compute at once.
            passed_s = time.perf_counter() - self._ledger.unbilled_s - self._begun
            hidden_s = passed_s / self._ledger.R
            self._ledger.add_modelled(max(0.0, self._modelled_s - hidden_s))
            self._done = True
        return self._row
