"""The results for a reader: one row a snapshot, in a few narrow tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from hpc_localsgd.analysis.draw.sharpness import radii_of
from hpc_localsgd.trajectory import Trajectory

WIDTH = 100


def page(results: Trajectory, steps: Sequence[int], notes: Sequence[str]) -> str:
    """Return the table of these steps, with notes.

    Args:
        results: The file of results.
        steps: Those asked for.
        notes: Lines below the table.
    """
    # Launchers give their ranks a terminal even when their own output is a file.
    console = Console(width=WIDTH, highlight=False, force_terminal=False, no_color=True)
    with console.capture() as captured:
        for table in _tables(_Cells(results), steps):
            console.print("", table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, "", *_on_radii(results), *notes])


def _on_radii(results: Trajectory) -> list[str]:
    radii = radii_of(results)
    return textwrap.wrap(radii.sentence, WIDTH) if radii else []


class _Cells:
    """Values of the file by name and step, as text."""

    def __init__(self, results: Trajectory) -> None:
        self.known = {name.removeprefix("sharpness/") for name in results.names()}
        self._series = {name: results.series(f"sharpness/{name}") for name in self.known}
        radii = radii_of(results)
        self.sigma = f" (sigma = {radii.sigma:g})" if radii else ""
        self.rho = f" (SAM, rho = {radii.rho:g})" if radii else " (SAM)"

    def value(self, name: str, step: int) -> np.ndarray:
        """Return a value; NaN where there is none."""
        series = self._series.get(name)
        if series is None or step not in series.step:
            return np.asarray(np.nan)
        return np.asarray(series.value[np.flatnonzero(series.step == step)[-1]])

    def number(self, name: str, step: int) -> str:
        """Format one number, with its error bar if it has one."""
        value, error = self.value(name, step), float(self.value(f"{name}_error", step))
        return _number(float(value)) + (f" +- {error:.1g}" if math.isfinite(error) else "")

    def top(self, name: str, step: int) -> str:
        """Format the three largest."""
        return "  ".join(_number(float(v)) for v in np.atleast_1d(self.value(name, step))[:3])

    def range(self, name: str, step: int) -> str:
        """Format the smallest and largest of the workers' first values."""
        values = np.atleast_1d(self.value(name, step))
        first = values[:, 0] if values.ndim == 2 else values
        return f"{_number(first.min())} to {_number(first.max())}"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _tables(cells: _Cells, steps: Sequence[int]) -> Iterator[Table]:
    """Yield a table for each group of columns of which the file has any."""
    groups: tuple[dict[str, tuple[str, Callable[[str, int], str]]], ...] = (
        {
            "loss": ("loss", cells.number),
            "eigenvalues": ("three largest eigenvalues", cells.top),
            "trace": ("trace", cells.number),
        },
        {
            "average_direction": (f"rise in the average direction{cells.sigma}", cells.number),
            "worst_direction": (f"along the gradient{cells.rho}", cells.number),
        },
        {
            "snapshot_xi_trace": ("spread tr Xi", cells.number),
            "snapshot_xi_gap": ("loss of workers - of mean", cells.number),
            "snapshot_xi_half_trace": ("tr(H Xi) / 2", cells.number),
            "workers/eigenvalues": ("workers' largest eigenvalue", cells.range),
        },
        {
            "ggn/eigenvalues": ("eigenvalues of Gauss-Newton", cells.top),
            "ggn/trace": ("its trace", cells.number),
            "fisher/eigenvalues": ("of the empirical Fisher", cells.top),
            "fisher/trace": ("its trace", cells.number),
        },
        {
            "noise/trace": ("trace of the gradient's noise", cells.number),
            "noise/alignment": ("its alignment with the Hessian", cells.number),
        },
    )
    for group in groups:
        there = {name: column for name, column in group.items() if name in cells.known}
        if there:
            yield _table(there, steps)


def _table(
    columns: Mapping[str, tuple[str, Callable[[str, int], str]]], steps: Sequence[int]
) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("step", *(title for title, _ in columns.values())):
        table.add_column(title, justify="right", no_wrap=True)
    for step in steps:
        table.add_row(f"{step}", *(cell(name, step) for name, (_, cell) in columns.items()))
    return table
