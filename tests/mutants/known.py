"""Faults that are none: programs that do the same, each with the reason."""

from __future__ import annotations

# (file, the line, the line with the fault) -> why no test can notice
EQUAL: dict[tuple[str, str, str], str] = {}
