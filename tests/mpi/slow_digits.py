"""The digits, slowed down, and a worker that falls behind; a launched run gets it by class path."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hpc_localsgd.tasks.base import Batch, Setting, Task
from hpc_localsgd.tasks.digits import digits


@dataclass(frozen=True)
class slow_digits(digits):
    """The digits.

    Attributes:
        step_s: Least seconds of a step, until the file is there that HURRY (a variable) names.
        late: The worker that falls behind, for as many seconds as LATE_S in the environment says.
        at: The step in which it does.
    """

    step_s: float = 0.004
    late: int = -1
    at: int = -1

    def build(self, setting: Setting) -> Task:
        task = super().build(setting)
        deal = task.batch

        def batch(ranks: Sequence[int], t: int) -> Batch:
            if not os.path.exists(os.environ.get("HURRY", "")):
                time.sleep(self.step_s)
            if t == self.at and self.late in ranks:
                time.sleep(float(os.environ.get("LATE_S", 0)))
            return deal(ranks, t)

        task.batch = batch  # type: ignore[method-assign]
        return task
