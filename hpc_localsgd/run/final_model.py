"""The model that a run was for: one file, by the module's own names, that anybody can load.

    >>> from safetensors.torch import load_file                          # doctest: +SKIP
    >>> model.load_state_dict(load_file("runs/digits/model.safetensors"))  # doctest: +SKIP

It is the mean model with the BatchNorm statistics it was evaluated with, so it has the accuracy
that the record says. Nothing in the file depends on when or how often the run was resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.run.probes.base import View
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run

FILE_NAME = "model.safetensors"
STEP = "step"  # in the file's metadata: global step of the model


def final_tensors(run: Run, p: Position) -> dict[str, torch.Tensor]:
    """Return the mean model by the module's names, on the CPU. A collective, not billed.

    Args:
        run: The run.
        p: Where it is.
    """
    view, device = View(run, p), run.world.device
    cards = [device] if device.type == "cuda" else []
    # A run that is made longer goes on from here with the random numbers it would have had.
    with run.world.ledger.unbilled(), torch.random.fork_rng(cards):
        return on_the_cpu(run.task.named_tensors(view.mean, view.buffers))


def on_the_cpu(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies on the CPU, each of storage of its own, as files of tensors want them."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in named.items()}


def write_tensors(path: Path, named: dict[str, torch.Tensor], step: int) -> None:
    """Write a file that is either whole or not there.

    Args:
        path: Of the file.
        named: Tensors by name, from `on_the_cpu`.
        step: Global step of the model.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    unborn = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        save_file(named, unborn, {"format": "pt", STEP: str(step)})
        os.replace(unborn, path)
    except SafetensorError as error:  # its own name for a full disk
        raise OSError(None, str(error), str(path)) from error
    finally:
        unborn.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Read a file that `write_tensors` wrote; return its tensors and the step of the model.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: It is damaged, or of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            step = int((file.metadata() or {})[STEP])
            return {name: file.get_tensor(name) for name in file.keys()}, step  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path} is no model that a run has written: {error}") from error
