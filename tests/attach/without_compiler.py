"""Optimizers of a user's loop that step without torch's compiler."""

from __future__ import annotations

import inspect

import torch

from hpc_localsgd.tasks.without_compiler import spare_the_compiler


def leave_the_compiler_out() -> None:
    """Let the optimizers of this process, before it makes one, neither load nor ask the compiler.

    The first step of an optimizer loads it, which is half of the processor time of a rank that
    takes a few steps. Hooks stay. The ranks of torchrun step as torch has it, and so do all tests
    of `attach` in one process.
    """
    spare_the_compiler()
    for kind in (torch.optim.SGD, torch.optim.Adam):
        kind.step = torch.no_grad()(inspect.unwrap(kind.step))  # type: ignore[method-assign]
