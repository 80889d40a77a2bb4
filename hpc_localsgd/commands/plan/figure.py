"""The figure of a plan, for a proposal or a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import Topology
from hpc_localsgd.types import legend

if TYPE_CHECKING:
    from hpc_localsgd.commands.plan.plan_report import PlanReport


def write_figure(report: PlanReport, name: str) -> None:
    """Draw a plan into a file.

    Args:
        report: The plan.
        name: Of the file, which `check_figure` accepts.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    from hpc_localsgd.analysis.draw.preview import draw_preview
    from hpc_localsgd.analysis.figure_files import house_style, save

    planned, path, K = report.planned, Path(name), report.planned.workers
    config, topology = planned.config, getattr(planned.config.algorithm, "topology", None)
    facts = [
        f"K = {K}",
        type(config.task).__name__,
        legend(config.algorithm),
        repr(planned.schedule),
    ]
    given = topology if isinstance(topology, Topology) else None
    try:
        with house_style(path.stem):
            save(
                draw_preview(report.plan, planned.rate, facts, report.network.name, given, K), path
            )
    except OSError as error:
        raise ConfigurationError(
            f"cannot write --figure {name}: {error.strerror}; give a name elsewhere"
        ) from error
