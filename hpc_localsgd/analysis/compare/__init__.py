"""Runs side by side: seeds of one configuration together, what differs, what is worth its cost."""

from __future__ import annotations

from hpc_localsgd.analysis.compare.groups import SeedGroup, differences, grouped_runs
from hpc_localsgd.analysis.compare.measures import (
    MEASURES,
    Measure,
    Summary,
    front,
    summary,
    uncertainty,
)

__all__ = [
    "MEASURES",
    "SeedGroup",
    "Measure",
    "Summary",
    "differences",
    "front",
    "grouped_runs",
    "summary",
    "uncertainty",
]
