"""One line of the table of `verify`, and how all of them are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hpc_localsgd.commands.rich_text import as_text, page_width
from hpc_localsgd.cost.formatting import human_seconds

OK, FAILED, INFORMATION = "ok", "failed", ""


@dataclass(frozen=True)
class Row:
    """Result of one check.

    Attributes:
        group: Title above the rows of one kind.
        check: What was looked at.
        world: Where: "horovod", "mpi", "torch" or "simulated".
        number: What came out, the worst of all ranks; None if it could not be looked at.
        limit: The largest number that is right; None for what is only information.
        note: Why it failed, or why there is no number.
    """

    group: str
    check: str
    world: str
    number: float | None
    limit: float | None
    note: str = ""

    @property
    def result(self) -> str:
        """Result in a word: ok, failed, or "" for what is only information."""
        if self.limit is None:
            return INFORMATION
        return OK if self.number is not None and self.number <= self.limit else FAILED


@dataclass(frozen=True)
class Feature:
    """A feature that a user's model has or lacks, and how the package treats it."""

    name: str
    count: int
    text: str


@dataclass(frozen=True)
class VerifyReport:
    """All results, equal on every rank.

    Attributes:
        heading: Lines that say where and with what.
        facts: The same for machines.
        rows: In the order they are shown.
        features: Of the user's model.
        seconds: How long it took.
    """

    heading: Sequence[str]
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    features: Sequence[Feature]
    seconds: float

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(row.result == FAILED for row in self.rows)


def as_json(report: VerifyReport) -> str:
    """Return the report as JSON. Keys are only ever added; a number that is not finite is null."""
    rows = [asdict(row) | {"result": row.result or "information"} for row in report.rows]
    for row in rows:
        number = row["number"]
        row["number"] = number if number is not None and math.isfinite(number) else None
    content = {
        **report.facts,
        "model": [asdict(feature) for feature in report.features],
        "checks": rows,
        "failed": report.failed,
        "seconds": round(report.seconds, 2),
    }
    return json.dumps(content, indent=1, allow_nan=False)


def as_table(report: VerifyReport, terminal: int | None = None) -> str:
    """Format the report for a reader, in colours for a terminal of so many columns."""
    return as_text(Group(*_parts(report)), page_width(terminal), coloured=terminal is not None)


def _parts(report: VerifyReport) -> Iterator[RenderableType]:
    yield from (Text(line) for line in report.heading)
    if report.features:
        yield Text("\nThe model has", style="bold")
        yield _features(report.features)
    checks = max(len(row.check) for row in report.rows)
    worlds = max(len(row.world) for row in report.rows)
    yield Text()
    header = _table(checks, worlds)
    header.add_row("check", "world", "number", "limit", "", style="dim")
    yield header
    for title, rows in groupby(report.rows, key=lambda row: row.group):
        yield Text(f"\n{title}", style="bold")
        yield from _rows(list(rows), checks, worlds)
    yield Text(f"\n{_summary(report)}")


def _rows(rows: Sequence[Row], checks: int, worlds: int) -> Iterator[RenderableType]:
    """Yield tables aligned with each other; a note stands below its row."""
    for row in rows:
        table = _table(checks, worlds)
        result = Text(row.result, style="red" if row.result == FAILED else "green")
        limit = "" if row.limit is None else _number(row.limit).replace(".0e", "e")
        table.add_row(f"  {row.check}", row.world, _number(row.number), limit, result)
        yield table
        if row.note:
            yield Padding(Text(row.note, style="dim"), (0, 0, 0, 6))


def _table(checks: int, worlds: int) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(width=checks + 2, no_wrap=True)
    table.add_column(width=worlds, no_wrap=True)
    table.add_column(width=8, no_wrap=True, justify="right")
    table.add_column(width=6, no_wrap=True, justify="right")
    table.add_column(width=6, no_wrap=True)
    return table


def _features(features: Sequence[Feature]) -> RenderableType:
    table = Table(show_header=False, box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(style="dim")
    for feature in features:
        table.add_row(f"  {feature.name}", str(feature.count or "none"), feature.text)
    return table


def _number(value: float | None) -> str:
    """Format counts whole, rates with three digits, differences as powers of ten."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0 or value >= 1:
        return f"{value:.0f}" if math.isfinite(value) else "nan"
    return f"{value:.1e}".replace("e-0", "e-")


def _summary(report: VerifyReport) -> str:
    checks = sum(row.limit is not None for row in report.rows)
    said = f"{report.failed} failed" if report.failed else "all ok"
    return f"{checks} checks, {said}, in {human_seconds(report.seconds)}"
