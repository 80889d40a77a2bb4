"""A run, or several, on one page that can be handed to a colleague."""

from __future__ import annotations

from hpc_localsgd.analysis.report.page import write_report

__all__ = ["write_report"]
