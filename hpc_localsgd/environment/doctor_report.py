"""The findings of the doctor as a table, as JSON, and as an exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hpc_localsgd.engine.finding import PROBLEM, WARNING, Finding


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 1 when there is a problem, else 0; warnings do not count."""
    return int(any(finding.level == PROBLEM for finding in findings))


def as_table(findings: Sequence[Finding]) -> str:
    """Return the findings as aligned lines, each fix below its finding."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.name:<{width}}  {finding.text}")
        if finding.fix:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.fix}")
    return "\n".join([*lines, "", _summary(findings)])


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON list of objects, for scripts."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level == PROBLEM for finding in findings)
    warnings = sum(finding.level == WARNING for finding in findings)
    if not problems and not warnings:
        return "All is well."
    return f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}."


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
