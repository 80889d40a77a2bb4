"""The tables of a comparison as files: CSV for programs, Markdown and LaTeX for texts."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.tables import Tables

BOOKTABS = "% needs \\usepackage{booktabs}"
HEADS = {"csv": "configuration,", "md": "|  | ", "tex": BOOKTABS}  # by which the files are told
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_SPECIALS = re.compile("|".join(re.escape(sign) for sign in _SPECIAL))


def as_csv(groups: Sequence[SeedGroup], made: Tables) -> str:
    """Write a row a configuration: what sets it apart, its folders, and every measure unrounded.

    A measure has three columns: mean, standard deviation over seeds, and number of runs that have
    it. What is not known is empty.

    Args:
        groups: At least one.
        made: Their tables.
    """
    names, apart = made.differing  # between the letter and the number of runs: what differs
    header = ["configuration", *names[1:-1], "folders"]
    header += [f"{m}, {part}" for m in made.summaries for part in ("mean", "deviation", "runs")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for i, group in enumerate(groups):
        row = [*apart[i][:-1], _folders(group)]
        for found in (summaries[i] for summaries in made.summaries.values()):
            row += [_number(found.mean), _number(found.deviation), str(found.count)]
        writer.writerow(row)
    return out.getvalue()


def as_markdown(made: Tables) -> str:
    """Write both tables, and below them the notes.

    Args:
        made: The tables.
    """
    parts = [markdown_table(*table) for table in (made.differing, made.measured)]
    return "\n\n".join([*parts, *made.notes]) + "\n"


def as_latex(made: Tables) -> str:
    """Write both tables for the package booktabs, and the notes as comments.

    Args:
        made: The tables.
    """
    parts = [BOOKTABS]
    parts += [latex_table(*made.differing, rest="l"), latex_table(*made.measured, rest="r")]
    return "\n\n".join([*parts, *(f"% {note}" for note in made.notes)]) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Write a table of texts in Markdown.

    Args:
        header: A name a column.
        rows: A text a column, each.
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def latex_table(header: list[str], rows: list[list[str]], rest: str) -> str:
    """Write a table of texts for LaTeX's package booktabs.

    Args:
        header: A name a column.
        rows: A text a column, each.
        rest: Alignment of all columns but the first: ``l`` or ``r``.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    columns = "l" + rest * (len(header) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(header),
            r"\midrule",
            *map(line, rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _escaped(text: str) -> str:
    return _SPECIALS.sub(lambda found: _SPECIAL[found.group()], text)


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _folders(group: SeedGroup) -> str:
    return " ".join(source.name for source in group.runs)
