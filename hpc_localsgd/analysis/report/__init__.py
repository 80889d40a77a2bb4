"""A run, or several, on one page of HTML that can be shared."""

from __future__ import annotations

from hpc_localsgd.analysis.report.page import write_report

__all__ = ["write_report"]
