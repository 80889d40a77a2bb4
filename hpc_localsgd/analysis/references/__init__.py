"""The papers that a run builds on: a file of them, what each is for, and which a run used."""

from __future__ import annotations

from hpc_localsgd.analysis.references.papers import Reference
from hpc_localsgd.analysis.references.used import Used, used_by

__all__ = ["Reference", "Used", "used_by"]
