"""A claim of a paper, what its experiment has to show, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.statistics import LEAST, Found, found, paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.runs import Runs

Values = dict[str, list[float]]  # condition -> a number for each seed (or a curve over steps)
Measured = dict[str, Values]  # what was measured -> the same


@dataclass(frozen=True)
class Claim:
    """What is said before anything is measured.

    Attributes:
        number: Of the table; "1b" is a second experiment on claim 1.
        name: Of the script and its files.
        title: A few words.
        says: The claim.
        source: Where it is made.
        setup: The experiment.
        deviation: What differs from the paper.
        must_see: What is predicted: the statements that `judge` decides.
        refuted_by: What would speak against the claim.
        remark: Said afterwards, on what was seen beside the predictions.
    """

    number: int | str
    name: str
    title: str
    says: str
    source: str
    setup: str
    deviation: str
    must_see: str
    refuted_by: str
    remark: str = ""


@dataclass(frozen=True)
class Statement:
    """One prediction and what became of it."""

    predicted: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Experiment:
    """A claim and its experiment.

    Attributes:
        claim: What is claimed.
        measure: Does the runs (fewer and shorter if `quick`) and gives the numbers.
        judge: Decides the statements from the numbers alone.
        draw: Draws them.
    """

    claim: Claim
    measure: Callable[[Runs, bool], Measured]
    judge: Callable[[Measured], list[Statement]]
    draw: Callable[[Measured], Figure]


def verdict(statements: Sequence[Statement]) -> str:
    """Return the verdict: all statements hold, some do, or none."""
    held = sum(statement.holds for statement in statements)
    if held == len(statements):
        return "reproduced"
    return "partly" if held else "not at this scale"


def below(predicted: str, a: Sequence[float], b: Sequence[float], looks: int = 1) -> Statement:
    """State that a is below b, seed by seed; see `Found.beyond` for what counts."""
    difference = paired(a, b, looks)
    return Statement(predicted, _told("difference", difference), difference.beyond() < 0)


def above(predicted: str, values: Sequence[float], null: float, looks: int = 1) -> Statement:
    """State that values over seeds are above a number."""
    number = found(values, null, looks)
    return Statement(predicted, _told("", number), number.beyond(null) > 0)


def within(
    predicted: str, values: Sequence[float], low: float, high: float, looks: int = 1
) -> Statement:
    """State that the whole interval of a number over seeds is from `low` to `high`."""
    number = found(values, looks=looks)
    held = number.n >= LEAST and low <= number.low and number.high <= high
    return Statement(predicted, f"{number}, n = {number.n}", held)


def _told(of: str, number: Found) -> str:
    return f"{of} {number}, n = {number.n}, p = {number.p:.2g}".strip()
