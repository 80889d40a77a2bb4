"""The papers that a run builds on: one table of them, and which of them a run used."""

from __future__ import annotations

from hpc_localsgd.analysis.references.reference import Reference
from hpc_localsgd.analysis.references.used import Used, used_by

__all__ = ["Reference", "Used", "used_by"]
