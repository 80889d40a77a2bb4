"""What a run would do and cost, before it starts: takes the options of train.

Nothing is trained, and nothing is written but the file of --figure. With --parameters and --samples
neither model nor data is needed, so that the run of a paper can be planned from its numbers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hpc_localsgd.commands.exit_codes import OK, refuse
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.engine.launch import Launch, detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "python -m hpc_localsgd plan"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan of a run; return the exit status, 2 for invalid input."""
    share_cores(os.environ)  # before torch and MPI are imported
    launch = detect(os.environ)
    try:
        text = plan(sys.argv[1:] if argv is None else argv, launch)
    except ConfigurationError as error:
        return refuse(str(error), launch, PROG)
    if text:
        put(text)
    return OK


def plan(argv: Sequence[str], launch: Launch) -> str:
    """Return the plan as a page or as JSON; "" on ranks other than 0.

    Raises:
        ConfigurationError: What train would refuse, it refuses too.
    """
    if not find_spec("torch"):
        from hpc_localsgd.commands.plan import without_torch

        return without_torch.plan(argv, PROG) if launch.rank == 0 else ""
    import torch
    import yaml

    from hpc_localsgd.commands.configuration import config
    from hpc_localsgd.commands.plan.as_json import as_json
    from hpc_localsgd.commands.plan.figure import write_figure
    from hpc_localsgd.commands.plan.network import MEASURED, chosen
    from hpc_localsgd.commands.plan.page import page
    from hpc_localsgd.commands.plan.planned_run import PlanOptions, planned_run
    from hpc_localsgd.commands.plan.report import report

    resolved = config.resolve(parser(), argv)
    written: dict[str, Any] = yaml.safe_load(resolved.text)  # with the options of this command
    if launch.rank != 0 and resolved.config.fabric != MEASURED:
        return ""
    options = PlanOptions(**{field.name: written[field.name] for field in fields(PlanOptions)})
    planned = planned_run(resolved, options, launch)
    network = chosen(resolved.config, planned.model.nbytes, launch)
    if launch.rank != 0:
        return ""
    torch.set_num_threads(1)  # many tiny exchanges are rehearsed: threads are in each other's way
    made = report(planned, network, options)
    if options.figure:
        write_figure(made, options.figure)
    if written["json"]:
        return as_json(made)
    return page(made, columns_of_output(launch.launched))


def parser() -> ArgumentParser:
    """Return the parser: the options of train, and those of a plan."""
    from hpc_localsgd.commands.configuration import config
    from hpc_localsgd.commands.plan.planned_run import PlanOptions

    made = config.parser(PROG)
    made.description = (__doc__ or "").replace("\n", " ")
    made.add_argument("--json", action="store_true", help="Print JSON instead of a page.")
    made.add_argument(
        "--activations",
        action="store_true",
        help="Also measure the activations of a step, on one worker's model on this CPU.",
    )
    made.add_class_arguments(PlanOptions, nested_key=None, skip={"activations"})
    return made
