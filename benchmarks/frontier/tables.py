"""The table of a frontier: CSV for programs, Markdown and LaTeX for texts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from frontier.points import SENT, TALKED, TOTAL, Point, on_front

from hpc_localsgd.analysis.compare.export import latex_table, markdown_table
from hpc_localsgd.analysis.compare.measures import ACCURACY, Summary
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.trajectory.estimate import human_bytes

Networks = Mapping[str, Sequence[Point]]
COSTS = {SENT: "sent_bytes", TALKED: "communicating_s", TOTAL: "training_s"}


def shown(networks: Networks) -> tuple[list[str], list[list[str]]]:
    """Give the header and a row a method; what is on a front is marked.

    Args:
        networks: Name of a network -> the methods on it, the same ones everywhere.
    """
    first = next(iter(networks.values()))
    header = ["", "runs", "accuracy", "sent by a worker", "sent to the target"]
    for name in networks:
        header += [f"{name}: communicating", f"{name}: training", f"{name}: to the target"]
    marks = {name: {c: on_front(points, c) for c in COSTS} for name, points in networks.items()}
    best = next(iter(marks.values()))[SENT]
    rows = []
    for i, p in enumerate(first):
        row = [p.label, str(p.runs), _accuracy(p), _bytes(p.costs[SENT], i in best)]
        row.append(_to_target(p, SENT))
        for name, points in networks.items():
            for cost in (TALKED, TOTAL):
                row.append(_seconds(points[i].costs[cost], i in marks[name][cost]))
            row.append(_to_target(points[i], TOTAL))
        rows.append(row)
    return header, rows


def as_markdown(networks: Networks) -> str:
    """Write the table; on a front in bold.

    Args:
        networks: As for `shown`.
    """
    return markdown_table(*shown(networks)) + "\n"


def as_latex(networks: Networks) -> str:
    """Write the table for the package booktabs.

    Args:
        networks: As for `shown`.
    """
    header, rows = shown(networks)
    plain = [[cell.replace("**", "") for cell in row] for row in rows]
    return f"% needs \\usepackage{{booktabs}}\n{latex_table(header, plain, rest='r')}\n"


def as_csv(networks: Networks) -> str:
    """Write a row a network and method, unrounded; what is not known is empty.

    Args:
        networks: As for `shown`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measures = [f"{name}{until}" for until in ("", "_to_target") for name in COSTS.values()]
    parts = [f"{name}_{part}" for name in ("accuracy", *measures) for part in ("mean", "deviation")]
    fronts = [f"on_front_{name}" for name in COSTS.values()]
    writer.writerow(["network", "method", "runs", "reached", "accuracy_off", *parts, *fronts])
    for network, points in networks.items():
        best = {cost: on_front(points, cost) for cost in COSTS}
        for i, p in enumerate(points):
            unknown = Summary(math.nan, math.nan, 0)
            found = [p.accuracy, *p.costs, *(p.to_target or (unknown,) * 3)]
            numbers = [_number(x) for s in found for x in (s.mean, s.deviation)]
            on = [int(i in best[cost]) for cost in COSTS]
            writer.writerow([network, p.label, p.runs, p.reached, p.off, *numbers, *on])
    return out.getvalue()


def _accuracy(p: Point) -> str:
    if math.isnan(p.accuracy.mean):
        return ""
    return f"{ACCURACY.text(p.accuracy.mean)} ± {ACCURACY.text(p.off)}"


def _bytes(found: Summary, best: bool) -> str:
    return _bold(human_bytes(found.mean), best)


def _seconds(found: Summary, best: bool) -> str:
    return _bold(human_seconds(found.mean), best)


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _to_target(p: Point, cost: int) -> str:
    """Write what it took; how many runs came there where not all did."""
    if not p.reached:
        return "not reached"
    mean = p.to_target[cost].mean
    text = human_bytes(mean) if cost == SENT else human_seconds(mean)
    return text if p.reached == p.runs else f"{text} ({p.reached} of {p.runs})"


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
