"""docs/trajectory.md shows the tree as the package writes it."""

from __future__ import annotations

from dataclasses import fields

import pages

from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, SCHEMA_VERSION, STATUSES

PAGE = (pages.ROOT / "docs" / "trajectory.md").read_text()


def test_every_column_of_the_rounds_is_there_and_no_other() -> None:
    head = "| column of `/rounds` | shape | units | |\n|---|---|---|---|\n"
    shown = PAGE.partition(head)[2].partition("\n\n")[0]
    rows = [
        f"| `{c.name}` | `[{'S, K' if c.per_worker else 'S'}]` | {c.units} | {c.meaning} |"
        for c in ROUND_COLUMNS
    ]
    assert shown == "\n".join(rows)


def test_every_attribute_is_named() -> None:
    for each in fields(Header):
        assert f"`{each.name}`" in PAGE, each.name
    assert f"means, {SCHEMA_VERSION};" in PAGE.replace("mean, ", "means, ")
    assert all(f"`{status}`" in PAGE for status in STATUSES)
