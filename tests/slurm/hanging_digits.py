"""The digits, of which one batch never comes: every start hangs at the same step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import sleep

from hpc_localsgd.run import watchdog
from hpc_localsgd.tasks.base import Batch, Task, TaskContext
from hpc_localsgd.tasks.digits import digits

if "pytest" not in sys.modules:  # in ranks: a machine that is slow to start them is no hang
    watchdog.START = 40


@dataclass(frozen=True)
class hanging_digits(digits):
    """The digits.

    Attributes:
        at: The step in which worker 1 hangs.
    """

    at: int = -1

    def build(self, context: TaskContext) -> Task:
        task = super().build(context)
        deal = task.batch

        def batch(workers: Sequence[int], t: int) -> Batch:
            if t == self.at and 1 in workers:
                sleep(3600)
            return deal(workers, t)

        task.batch = batch  # type: ignore[method-assign]
        return task
