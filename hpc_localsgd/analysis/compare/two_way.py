"""Tables of two ways: methods in rows, learning rates or lengths of the run in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpc_localsgd.analysis.compare.groups import SeedGroup, differences
from hpc_localsgd.analysis.compare.measures import (
    ACCURACY,
    SHARPEST,
    TEST_LOSS,
    TRACE,
    Measure,
    summary,
    told,
)

COLUMNS = ("rate.lr", "rate", "steps", "epochs")  # what may stand in columns
SHOWN = (ACCURACY, TEST_LOSS, SHARPEST, TRACE)


@dataclass(frozen=True)
class TwoWay:
    """A measure for every pair of choices.

    Attributes:
        measure: What the cells are.
        across: The option in columns.
        header: Names of the options in rows, then the values of that in columns.
        rows: Values of the options in rows, then the cells, empty where there was no run.
        options: How many first columns are options.
    """

    measure: str
    across: str
    header: list[str]
    rows: list[list[str]]
    options: int


def two_way(groups: Sequence[SeedGroup]) -> Iterator[TwoWay]:
    """Yield a table for each option that can stand in columns, and each measure that there is.

    There is one where that option and others differ, and a row has two cells at least. A pair of
    choices that several groups share cannot be: whatever differs has a column of its own.

    Args:
        groups: At least one.
    """
    apart = differences(groups)
    for across in COLUMNS:
        rest = [name for name in apart if name != across]
        if across not in apart or not rest:
            continue
        rows: dict[tuple[str, ...], dict[str, SeedGroup]] = {}
        for i, group in enumerate(groups):
            row = tuple(apart[name][i] for name in rest)
            rows.setdefault(row, {})[apart[across][i]] = group
        if len(rows) > 1 and max(map(len, rows.values())) > 1:
            columns = sorted(dict.fromkeys(apart[across]), key=_by_number)
            for measure in SHOWN:
                yield from _of(measure, across, (rest, columns), rows)


def _of(
    measure: Measure,
    across: str,
    names: tuple[list[str], list[str]],
    rows: dict[tuple[str, ...], dict[str, SeedGroup]],
) -> Iterator[TwoWay]:
    """Yield the table of a measure, if any of the groups has it."""
    rest, columns = names
    cells = {
        row: [told(summary(there[c], measure), measure) if c in there else "" for c in columns]
        for row, there in rows.items()
    }
    if any(any(row) for row in cells.values()):
        header = [*rest, *(f"{across} {column}" for column in columns)]
        yield TwoWay(
            measure.name, across, header, [[*row, *cells[row]] for row in cells], len(rest)
        )


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
