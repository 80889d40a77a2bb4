"""The parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpc_localsgd.run.probes.base import Measurement, Probe, View


@dataclass(frozen=True)
class Snapshots(Probe):
    """Parameters of the mean model, and of every worker if asked.

    Attributes:
        every: Cadence in steps.
        workers: Also keep all K models: K + 1 times the disk space.
    """

    every: int
    workers: bool = False

    def measure(self, view: View) -> Iterator[Measurement]:
        """Yield `snapshot`: (mean [P], workers [K, P] or None)."""
        mean = view.mean.cpu().numpy()
        rows = view.run.world.gather(view.p.x.cpu().numpy()) if self.workers else None
        yield Measurement("snapshot", (mean, rows))
