"""Tables as text, no wider than the terminal that they are for."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

GAP = "   "
Rows = Sequence[Sequence[str]]


def text_table(
    header: Sequence[str], rows: Rows, *, width: int | None = None, keys: int = 1, left: int = 1
) -> str:
    """Lay out a table; one that is too wide becomes several below one another.

    As pandas prints a wide frame, the first columns are in front of each of these. Where they are
    more than one, a number for each row stands for them. No cell is ever cut.

    Args:
        header: Names of the columns.
        rows: Cells of each row, as many as there are names.
        width: Characters of a line; None for no limit.
        keys: Columns that say what a row is.
        left: Columns that are aligned at their left, from the first on; the others at their right.

    Returns:
        Lines without spaces at their ends. An empty line is between two tables.
    """
    columns = list(zip(header, *rows, strict=True))
    if width is None or _width(columns) <= width:
        return _laid_out(columns, left)
    first, others, left_here = columns[:keys], columns[keys:], left - keys
    tables = []
    if keys > 1:
        numbers = ("", *(str(i + 1) for i in range(len(rows))))
        tables.append(_laid_out([numbers, *first], len(first) + 1))
        first = [numbers]
    while others:
        n = _fitting(first, others, width)
        tables.append(_laid_out([*first, *others[:n]], len(first) + max(0, left_here)))
        others, left_here = others[n:], left_here - n
    return "\n\n".join(tables)


def named_values(rows: Rows, width: int | None = None) -> str:
    """Lay out names and values, a line each; a long value goes on below its beginning.

    Args:
        rows: Name and value of each.
        width: Characters of a line; None for no limit.
    """
    wide = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, value in rows:
        first, *more = wrapped([value], None if width is None else max(1, width - wide))
        lines += [f"{name:<{wide}}{first}", *(" " * wide + line for line in more)]
    return "\n".join(line.rstrip() for line in lines)


def wrapped(lines: Iterable[str], width: int | None = None) -> list[str]:
    """Break lines at words; without a width they stay as they are.

    Args:
        lines: Sentences, or empty.
        width: Characters of a line; None for no limit. A longer word, as of a path, is not broken.
    """
    if width is None:
        return list(lines)
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False).wrap
    return [part for line in lines for part in wrap(line) or [""]]


def _fitting(first: Rows, others: Rows, width: int) -> int:
    """Return how many of the other columns fit beside the first ones; at least one."""
    n = 1
    while n < len(others) and _width([*first, *others[: n + 1]]) <= width:
        n += 1
    return n


def _width(columns: Rows) -> int:
    return sum(max(map(len, column)) for column in columns) + len(GAP) * (len(columns) - 1)


def _laid_out(columns: Rows, left: int) -> str:
    padded = []
    for i, column in enumerate(columns):
        wide = max(map(len, column))
        padded.append([cell.ljust(wide) if i < left else cell.rjust(wide) for cell in column])
    return "\n".join(GAP.join(row).rstrip() for row in zip(*padded, strict=True))
