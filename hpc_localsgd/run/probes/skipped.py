"""Damaged samples that were left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.run.probes.base import Measurement, Probe, View


@dataclass(frozen=True)
class Skipped(Probe):
    """Number of damaged samples left out so far, where a task may do so.

    Attributes:
        every: Cadence in steps.
    """

    every: int

    def measure(self, view: View) -> Iterator[Measurement]:
        """Yield `data/skipped` over all workers; a sample counts every time it was due."""
        mine = getattr(view.run.task, "skipped", [])
        if mine:
            counts = view.run.world.gather(np.array(mine, dtype=np.float64)[:, None])
            meaning = "damaged samples left out so far, every time one was due"
            yield Measurement("data/skipped", float(counts.sum()), "1", (), meaning)
