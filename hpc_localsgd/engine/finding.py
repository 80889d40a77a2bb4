"""What a check of this machine found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        level: "ok", "warning" or "problem".
        name: What was looked at, in a word or two.
        text: What was found.
        fix: What to type or to change; empty when all is well.
    """

    level: str
    name: str
    text: str
    fix: str = ""
