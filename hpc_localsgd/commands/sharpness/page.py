"""The results for a reader: one row a snapshot, in a few narrow tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hpc_localsgd.analysis.draw.sharpness import radii_of
from hpc_localsgd.analysis.text_tables import text_table, wrapped
from hpc_localsgd.commands.rich_text import page_width
from hpc_localsgd.cost.formatting import grouped
from hpc_localsgd.trajectory import Trajectory

Columns = dict[str, tuple[str, Callable[[str, int], str]]]  # series -> title, text at a step


def page(
    results: Trajectory, steps: Sequence[int], notes: Sequence[str], terminal: int | None = None
) -> str:
    """Return the table of these steps, with notes.

    Args:
        results: The file of results.
        steps: Those asked for.
        notes: Lines below the table.
        terminal: Its columns; None where the output is none.
    """
    width = page_width(terminal)
    tables = [_table(columns, steps, width) for columns in _groups(_Cells(results))]
    radii = radii_of(results)
    said = wrapped([*([radii.sentence] if radii else []), *notes], width)
    return "\n\n".join(["", *tables, "\n".join(said)])[1:]


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
        return _number(float(value)) + (f" ± {error:.1g}" if math.isfinite(error) else "")

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


def _groups(cells: _Cells) -> Iterator[Columns]:
    """Yield the columns of each table, those of which the file has any."""
    groups: tuple[Columns, ...] = (
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
            yield there


def _table(columns: Columns, steps: Sequence[int], width: int) -> str:
    header = ["step", *(title for title, _ in columns.values())]
    rows = [[grouped(s), *(cell(name, s) for name, (_, cell) in columns.items())] for s in steps]
    return text_table(header, rows, width=width, left=0)
