"""The digits, slowed down, and a worker that falls behind; a launched run gets it by class path."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_localsgd.run import watchdog
from hpc_localsgd.tasks.base import Batch, Task, TaskContext
from hpc_localsgd.tasks.digits import digits

if "pytest" not in sys.modules:  # in ranks: tests that run it themselves keep what others test
    watchdog.BEAT_EVERY_S = 2.0  # tests wait for several signs of life
    watchdog.START = (
        40  # a machine that is slow to start ranks is no hang; a step has the same bound
    )


def made_before(workers: Sequence[int], t: int) -> bool:
    """Note that workers make a step; whether one of them has, in an earlier start of the run."""
    if not (folder := os.environ.get("ONCE", "")):
        return False
    notes = [Path(folder) / f"{worker}-{t}" for worker in workers]
    found = any(note.exists() for note in notes)
    for note in notes:
        note.touch()
    return found


@dataclass(frozen=True)
class slow_digits(digits):
    """The digits.

    A run that is to be stopped in its middle says when it is there, and is not over before: with
    ARRIVES="STEP FOLDER" in the environment each worker makes a file of its number in the folder in
    that step, and takes so many seconds as SLOW_S says for each one from there on. All that ends
    when the file is there that HURRY (a variable) names. Where ONCE names a folder for notes,
    steps are quick by which workers catch up in their round with one that is at its end.

    Attributes:
        step_s: Least seconds of a step.
        late: The worker that falls behind, for as many seconds as LATE_S in the environment says.
        at: The step in which it does.
    """

    step_s: float = 0.004
    late: int = -1
    at: int = -1

    def build(self, context: TaskContext) -> Task:
        task = super().build(context)
        deal = task.batch
        at, _, folder = os.environ.get("ARRIVES", "").partition(" ")

        def batch(workers: Sequence[int], t: int) -> Batch:
            if folder and t == int(at):
                for worker in workers:
                    (Path(folder) / str(worker)).touch()
            if not (os.path.exists(os.environ.get("HURRY", "")) or made_before(workers, t)):
                arrived = bool(folder) and t >= int(at)
                time.sleep(self.step_s + arrived * float(os.environ.get("SLOW_S", 0)))
            if t == self.at and self.late in workers:
                time.sleep(float(os.environ.get("LATE_S", 0)))
            return deal(workers, t)

        task.batch = batch  # type: ignore[method-assign]
        return task
