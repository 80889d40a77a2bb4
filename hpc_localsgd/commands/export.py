"""`python -m hpc_localsgd export RUN`: the trained model as a file for other programs.

The end of a run is in its folder already, as model.safetensors; this is for snapshots on the way,
other formats and other places.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpc_localsgd.commands.collective_command import parse_options, parser_of
from hpc_localsgd.commands.exit_codes import OK, refuse
from hpc_localsgd.commands.output import put
from hpc_localsgd.commands.replaceable import check_replaceable, is_dcp, is_model, is_state_dict
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError, of_file
from hpc_localsgd.trajectory.whole_file import put_whole

if TYPE_CHECKING:
    import torch
    from jsonargparse import ArgumentParser

    from hpc_localsgd.trajectory import Trajectory

PROG = "python -m hpc_localsgd export"
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt", "dcp": "-dcp"}
WRITES = {
    "safetensors": (is_model, "a model that this package wrote"),
    "torch": (is_state_dict, "a state_dict of torch.save"),
    "dcp": (is_dcp, "a folder of torch.distributed.checkpoint alone"),
}


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`.

    Args:
        run: The run: its folder, or its trajectory.h5.
        step: Which snapshot. Default: the model at the end of the run.
        format: safetensors; torch, a state_dict for torch.load; dcp, a folder for
            torch.distributed.checkpoint.
        out: Where to write. Default: model, or model-STEP, beside the trajectory.
        overwrite: Replace what is there.
        trust: Modules that the recorded configuration may name, beside what this package and torch
            ship.
        device: Where BatchNorm's statistics are estimated.
    """

    run: str
    step: int | None = None
    format: Literal["safetensors", "torch", "dcp"] = "safetensors"
    out: str | None = None
    overwrite: bool = False
    trust: tuple[str, ...] = ()
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the model that the command line names; return the exit status."""
    share_cores(os.environ)
    launch = detect(os.environ)
    try:
        options: ExportOptions = parse_options(
            parser(), ExportOptions, sys.argv[1:] if argv is None else argv
        )
        if launch.rank == 0:  # all the others have nothing to do
            put(export(options))
    except ConfigurationError as error:
        return refuse(str(error), launch, PROG)
    except OSError as error:  # of the folder of --out
        return refuse(of_file(error), launch, PROG)
    return OK


def export(options: ExportOptions) -> str:
    """Write a model; return what was written, in a line.

    Raises:
        ConfigurationError: There is no such model, or it cannot be written.
    """
    from hpc_localsgd.run.final_model import FILE_NAME
    from hpc_localsgd.trajectory import Trajectory, TrajectoryError

    try:
        run = Trajectory(options.run)
        named, step = _model(run, options)
    except TrajectoryError as error:
        raise ConfigurationError(str(error)) from error
    name = "model" if options.step is None else f"model-{step}"
    default = run.path.with_name(name + SUFFIXES[options.format])
    out = Path(options.out) if options.out else default
    there = out.exists() and not options.overwrite
    if there and options.step is None and out == run.path.with_name(FILE_NAME):
        return f"{out} is there already, written by the run: {_told(named, step)}"
    if there:
        raise ConfigurationError(f"{out} is there already: give --overwrite, or another --out")
    ours, what = WRITES[options.format]
    check_replaceable(out, ours, what)
    try:
        _write(out, named, step, options.format)
    except (OSError, RuntimeError) as error:  # PyTorch's of a full disk is no OSError
        said = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot write {out}: {said}; give another --out") from error
    return f"{out}: {_told(named, step)}"


def _told(named: Mapping[str, torch.Tensor], step: int) -> str:
    """Return what a file of the mean model holds."""
    numbers = sum(tensor.numel() for tensor in named.values())
    return f"the mean model at step {step:,}, {len(named)} tensors, {numbers:,} numbers"


def _model(run: Trajectory, options: ExportOptions) -> tuple[dict[str, torch.Tensor], int]:
    """Return the tensors of the model that is asked for, and its step."""
    from hpc_localsgd.run.final_model import FILE_NAME, on_the_cpu, read_tensors, step_of

    final = run.path.with_name(FILE_NAME)
    kept = sorted({int(step) for step in run.snapshot_steps})
    if options.step is None and final.exists():
        return read_tensors(final), step_of(final)
    if not kept or options.step not in (None, *kept):
        there = f"snapshots at {kept}" if kept else "no snapshots (train with --snapshot-every)"
        wanted = "at the end of the run" if options.step is None else f"at step {options.step}"
        end = "; without --step it is the model at the end" if final.exists() else ""
        raise ConfigurationError(f"{run.path} has no model {wanted}: there are {there}{end}")
    step = kept[-1] if options.step is None else options.step
    return on_the_cpu(_of_snapshot(run, step, options)), step


def _of_snapshot(run: Trajectory, step: int, options: ExportOptions) -> Mapping[str, torch.Tensor]:
    """Return the mean model of a snapshot, its BatchNorm statistics estimated as in the run.

    That is on the same batches. Where the run averaged its workers' statistics instead, these are
    not in a snapshot.
    """
    import torch

    from hpc_localsgd.commands.assembly.objects import built, context_of
    from hpc_localsgd.commands.assembly.worlds import device_for
    from hpc_localsgd.commands.configuration.config import recorded
    from hpc_localsgd.engine.batchnorm import BatchNorm
    from hpc_localsgd.worlds.simulated import Simulated

    world = Simulated(run.K, str(device_for(options.device, 0)))
    config = recorded(run.config_text, options.trust).config
    context = context_of(replace(config, compile=False), world)
    task = built(config.task, replace(context, local_workers=(0,)))  # one model for all of them
    if run.P != task.dim:
        raise ConfigurationError(
            f"{run.path} holds {run.P} parameters, but the task it recorded now has {task.dim}: it "
            "was trained with another version of the model"
        )
    x = torch.from_numpy(run.snapshot(step).mean).to(task.x)
    batchnorm = BatchNorm("reestimate", config.batchnorm_batches)
    return task.named_tensors(x, batchnorm.for_evaluation(x, task, world))


def _write(out: Path, named: dict[str, torch.Tensor], step: int, format: str) -> None:
    if format == "safetensors":
        from hpc_localsgd.run.final_model import write_tensors

        return write_tensors(out, named, step)
    if format == "torch":
        import torch

        with put_whole(out) as unborn, unborn.open("wb") as file:  # which says why it fails
            return torch.save(named, file)
    from hpc_localsgd.worlds.dcp import write_dcp

    with warnings.catch_warnings():  # torch says that there is one process, as is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        return write_dcp(out, named)


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    about = (
        "Write the trained model, the mean of the workers with the BatchNorm statistics it is "
        "evaluated with, by its module's own names: for torch.nn.Module.load_state_dict."
    )
    flags = {"overwrite": "Replace what is there."}
    return parser_of(PROG, about, ExportOptions, flags)


if __name__ == "__main__":
    sys.exit(main())
