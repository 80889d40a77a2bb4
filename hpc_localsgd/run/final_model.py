"""The trained model in one file, by the module's own names.

    >>> from safetensors.torch import load_file                          # doctest: +SKIP
    >>> model.load_state_dict(load_file("runs/digits/model.safetensors"))  # doctest: +SKIP

It is the mean model with the BatchNorm statistics it was evaluated with, so it has the accuracy
that the record says. Nothing in the file depends on when or how often the run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.probes.base import View
from hpc_localsgd.trajectory.whole_file import put_whole, sync

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

    try:
        with put_whole(path) as unborn:
            unborn.touch()
            mode = unborn.stat().st_mode  # of any file of ours; safetensors makes private ones
            save_file(named, unborn, {"format": "pt", STEP: str(step)})
            with unborn.open("rb") as file:  # safetensors does not hear what closing says
                sync(file.fileno())
            unborn.chmod(mode)
    except SafetensorError as error:  # its own name for a full disk
        raise OSError(None, str(error), str(path)) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file that `write_tensors` wrote, by their names.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: It is damaged, or of something else.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def step_of(path: Path) -> int:
    """Return the global step of a model, without reading its tensors.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: It is damaged, or of something else.
    """
    with _opened(path) as file:
        return int(file.metadata()[STEP])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if not (file.metadata() or {}).get(STEP, "").isdecimal():
                raise ValueError("it does not say at which step it was taken")
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is not a model that a run has written: {error}"
        ) from error
