"""The figures of a run, drawn from its trajectory and from nothing else."""

from __future__ import annotations

from pathlib import Path

from hpc_localsgd.analysis.draw.accuracy import draw_accuracy
from hpc_localsgd.analysis.draw.spread import draw_spread
from hpc_localsgd.analysis.draw.time import draw_time
from hpc_localsgd.analysis.figure_files import house_style, save
from hpc_localsgd.trajectory import Trajectory

FIGURES = {"accuracy": draw_accuracy, "spread": draw_spread, "time": draw_time}
"""File name -> what draws it."""


def draw_run(
    trajectory: Trajectory | str | Path, folder: str | Path, *, pdf: bool = False
) -> list[Path]:
    """Draw ``accuracy.png``, ``spread.png`` and ``time.png``.

    Figures are made without pyplot, so nothing of the caller's matplotlib (backend, open figures,
    style) is touched, and no display is needed.

    Args:
        trajectory: The run, or the path of one.
        folder: Where the files go; made if missing. Existing ones are replaced.
        pdf: Whether to write each as PDF too.

    Returns:
        The files, in the order of `FIGURES`.
    """
    run = trajectory if isinstance(trajectory, Trajectory) else Trajectory(trajectory)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in FIGURES.items():
        with house_style():
            figure = draw(run)
            for suffix in ("png", "pdf") if pdf else ("png",):
                files.append(folder / f"{name}.{suffix}")
                save(figure, files[-1])
    return files
