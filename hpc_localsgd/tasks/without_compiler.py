"""torch without its compiler, whose import takes as long as that of torch.

The first optimiser of a process imports `torch._dynamo` (1.4 s of a processor, and a thousand files
that every rank of a job reads) to keep the compiler out of some methods and to break graphs; the
first gradient of `torch.func`, to keep it out of the backward pass. Where nothing has been compiled
there is no compiler to keep out and no graph to break.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch

_COMPILER = "torch._dynamo"
_INSTEAD = "__dynamo_disable"  # where torch._compile keeps what it calls in place of a method
_METHODS = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")


def spare_the_compiler() -> None:
    """Let torch's optimisers call their methods directly until the compiler is loaded.

    From then on they do as torch has it. Nothing changes in a torch that does this otherwise.
    """
    for name in _METHODS:
        method = getattr(torch.optim.Optimizer, name)
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and _COMPILER not in sys.modules and not hasattr(plain, _INSTEAD):
            setattr(plain, _INSTEAD, _direct(method, plain))


def gradients_without_it() -> None:
    """Let gradients of `torch.func` leave the compiler alone until it is loaded.

    Whatever else is asked of it loads it, and puts it in the place of what stands for it here.
    """
    if "_dynamo" not in vars(torch):
        autograd = _NotLoaded(f"{_COMPILER}.compiled_autograd", _disable=nullcontext)
        vars(torch)["_dynamo"] = _NotLoaded(_COMPILER, compiled_autograd=autograd)


class _NotLoaded:
    """A module that is loaded by the first use of what is not among the `known`."""

    def __init__(self, name: str, **known: Any) -> None:
        vars(self).update(known, _name=name)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def _direct(method: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER not in sys.modules:
            return plain(*args, **kwargs)
        if getattr(plain, _INSTEAD, None) is call:
            delattr(plain, _INSTEAD)  # torch puts its own there
        return method(*args, **kwargs)

    return call


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Step as `optimizer.step()` does, without loading the compiler.

    An optimiser that is not torch's own, has hooks or is differentiated through steps as usual.
    """
    ours = type(optimizer).__module__.startswith("torch.optim.")
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if _COMPILER in sys.modules or not ours or hooks or optimizer.defaults.get("differentiable"):
        optimizer.step()
        return
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)
