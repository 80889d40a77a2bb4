"""The tables of a comparison, as plain texts: for a terminal and for a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.analysis.compare.groups import SeedGroup, differences
from hpc_localsgd.analysis.compare.measures import (
    MEASURES,
    SHARPEST,
    Measure,
    Summary,
    clocks,
    costs_of,
    diverged,
    front,
    summary,
    told,
    uncertainty,
    worth,
)
from hpc_localsgd.analysis.report.source import Source


@dataclass(frozen=True)
class Tables:
    """A comparison in texts.

    Attributes:
        differing: Header, and a row a group: its letter, what sets it apart, its runs.
        measured: Header, and a row a group: its letter, and what it is compared by.
        summaries: Name of a measure -> its summary in each group, also of those not shown.
        fronts: Name of a cost -> letters on the Pareto front against it, cheapest first.
        notes: What there is to say.
    """

    differing: tuple[list[str], list[list[str]]]
    measured: tuple[list[str], list[list[str]]]
    summaries: dict[str, list[Summary]]
    fronts: dict[str, list[str]]
    notes: list[str]


def tables(groups: Sequence[SeedGroup]) -> Tables:
    """Make the tables of some groups.

    Args:
        groups: At least one.
    """
    apart = differences(groups)
    rows = [
        [g.letter, *(values[i] for values in apart.values()), g.standing]
        for i, g in enumerate(groups)
    ]
    found = {m.name: [summary(g, m) for g in groups] for m in MEASURES}
    shown = [m for m in MEASURES if any(s.count for s in found[m.name])]
    numbers = [
        [g.letter, *(told(found[m.name][i], m) for m in shown)] for i, g in enumerate(groups)
    ]
    return Tables(
        differing=(["", *apart, "runs"], rows),
        measured=(["", *(m.name for m in shown)], numbers),
        summaries=found,
        fronts={cost.name: _letters_on(groups, cost) for cost in costs_of(groups)},
        notes=_notes(groups),
    )


def _letters_on(groups: Sequence[SeedGroup], cost: Measure) -> list[str]:
    costs = [summary(g, cost).mean for g in groups]
    best = front(costs, [worth(g) for g in groups], [uncertainty(g) for g in groups])
    return [groups[i].letter for i in best]


def _notes(groups: Sequence[SeedGroup]) -> list[str]:
    notes = []
    if any(len(g.counted) > 1 for g in groups):
        notes.append("Mean ± standard deviation over seeds.")
    if any(uncertainty(g) for g in groups):
        notes.append(
            "On a front is what no cheaper configuration equals: its accuracy is higher by more "
            "than the deviation over seeds, and than the statistical error of the test set where "
            "the record says its size."
        )
    partial = [g.letter for g in groups if len(g.counted) < len(g.runs)]
    if partial:
        notes.append(f"Only complete runs count: {', '.join(partial)} had others.")
    open_ones = [g.letter for g in groups if g.counted[0].run.status != "complete"]
    if open_ones:
        notes.append(
            f"No run of {', '.join(open_ones)} is complete: its numbers are those of all its runs."
        )
    if far := [g.letter for g in groups if diverged(g)]:
        notes.append(f"What diverged is on no front: {', '.join(far)}.")
    seconds_are = clocks(groups)
    if len(seconds_are) > 1:
        notes.append(
            "Some seconds are measured and some modelled: do not compare these. There is no front "
            "against them."
        )
    elif seconds_are == {"modelled"}:
        notes.append("Seconds of communication are predictions for a simulated network.")
    return [*notes, *_notes_on_sharpness([s for g in groups for s in g.counted])]


def _notes_on_sharpness(sources: Sequence[Source]) -> Iterator[str]:
    """Yield the differences between measured curvatures that do not come from the runs."""
    measured = [s for s in sources if s.sharpness]
    at_the_end = [s for s in measured if not math.isnan(SHARPEST.of(s))]
    for early in (s.name for s in measured if s not in at_the_end):
        yield f"The sharpness of {early} was not measured at its last snapshot: not compared."
    how = [s.sharpness.config.get("sharpness") or {} for s in at_the_end if s.sharpness]
    apart = {
        name
        for h in how
        for name in ("samples", "seed", "dtype")
        if h.get(name) != how[0].get(name)
    }
    if apart:
        yield f"Curvatures were measured with other {', '.join(sorted(apart))}."
    last = [float(s.run.rounds.lr[-1]) for s in at_the_end if len(s.run.rounds)]
    if last and not np.allclose(last, last[0], rtol=0.01):
        yield (
            "These runs end with other learning rates: the largest eigenvalue follows 2 / lr, "
            "compare it with care."
        )
