"""From `--model package.module:factory` to a problem that can be trained on."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hpc_localsgd.commands.verify.problem import SEED, Problem
from hpc_localsgd.engine.agreement import agree, check_same
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.commands.verify.options import VerifyOptions
    from hpc_localsgd.worlds.base import World

RANDOM_SAMPLES = 16
BATCH = 4  # per worker and step; few examples are given more than once
LR = 0.01

Given = tuple[nn.Module, torch.Tensor, torch.Tensor]


def users_problem(world: World, options: VerifyOptions) -> Problem:
    """Return the user's model and examples as a problem, the same on every rank.

    Raises:
        ConfigurationError: The factory cannot be imported, or its model not trained; on all ranks.
    """
    module, inputs, labels = agree(world, lambda: _given(options))
    shapes = [tuple(p.shape) for p in module.parameters()]
    examples = f"inputs {tuple(inputs.shape)} {inputs.dtype}, labels {tuple(labels.shape)}"
    check_same(world, [*(f"parameter {shape}" for shape in shapes), examples])
    inputs, labels = (_of_rank_0(world, part) for part in (inputs, labels))
    for parameter in module.parameters():
        if parameter.requires_grad:  # as a run begins; what is frozen is not sent there either
            parameter.data = _of_rank_0(world, parameter.data)
    made = agree(world, lambda: _problem(world, options, module, inputs, labels))
    check_same(world, [str(made.dtype)])
    return made


def _problem(
    world: World,
    options: VerifyOptions,
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
) -> Problem:
    """Make the problem in float64 if the model can be computed in it, so that differences show."""
    if not inputs.is_floating_point():
        module = TakesIntegers(module, inputs.dtype)
    repeats = -(-world.K * BATCH // len(inputs))
    x, y = (np.concatenate([part.cpu().numpy()] * repeats) for part in (inputs, labels))
    problem = Problem(module, x, y, BATCH, lr=LR, vmapped=False)
    problems = []
    for dtype in (torch.float64, torch.float32):
        made = replace(problem, dtype=dtype)
        try:
            _try(made, world)
        except ConfigurationError:
            raise
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        else:
            return made
    raise ConfigurationError(
        f"{options.model} gave a model that cannot be trained on its examples "
        f"{tuple(inputs.shape)}: {problems[-1]}"
    )


def _try(problem: Problem, world: World) -> None:
    """Take one step of one worker; raise what the model raises."""
    from hpc_localsgd.worlds.simulated import Simulated

    task = problem.task(Simulated(1, world.device))
    losses, _ = task.loss_and_grad(task.x, task.batch([0], 0))
    if not losses.isfinite().all():
        raise ConfigurationError(f"the loss of the model on its examples is {losses[0]:g}")


class TakesIntegers(nn.Module):
    """A model whose inputs are integers (tokens), fed by a task that stores numbers."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, inputs: torch.Tensor) -> Any:
        """Return the model of the rounded inputs."""
        return self.module(inputs.round().to(self.dtype))


def _given(options: VerifyOptions) -> Given:
    """Return what the factory returns; a lone module gets random examples."""
    spec = options.model or ""
    factory = load(spec)
    torch.manual_seed(SEED)
    try:
        found = factory()
    except Exception as error:
        raise ConfigurationError(f"{spec}() raised {type(error).__name__}: {error}") from error
    if isinstance(found, nn.Module):
        return (found, *_random_examples(spec, options))
    if not (isinstance(found, tuple) and len(found) == 3 and isinstance(found[0], nn.Module)):
        raise ConfigurationError(
            f"{spec}() returned {type(found).__name__}: return an nn.Module, or a tuple "
            "(module, inputs [B, ...], classes [B])"
        )
    module = found[0]
    try:
        inputs, labels = torch.as_tensor(found[1]), torch.as_tensor(found[2])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{spec}() returned examples that are not tensors: {error}"
        ) from error
    if labels.shape != inputs.shape[:1] or labels.is_floating_point() or not len(labels):
        raise ConfigurationError(
            f"{spec}() returned inputs {tuple(inputs.shape)} and targets {tuple(labels.shape)} "
            f"of {labels.dtype}: targets are one whole number, the class, for each input"
        )
    return module, inputs.detach(), labels


def load(spec: str) -> Callable[[], Any]:
    """Return the factory that "package.module:factory" names.

    Raises:
        ConfigurationError: There is no such module, or nothing to call in it.
    """
    where, colon, name = spec.partition(":")
    if not (where and colon and name):
        raise ConfigurationError(f"--model {spec}: type it as package.module:factory")
    try:
        module = import_module(where)
    except Exception as error:
        near = f"; looked in {sys.path[0] or '.'} first" if isinstance(error, ImportError) else ""
        raise ConfigurationError(
            f"--model {spec}: cannot import {where}: {type(error).__name__}: {error}{near}"
        ) from error
    factory = getattr(module, name, None)
    if callable(factory):
        return factory
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", "") == where}
    known = sorted(n for n, v in own.items() if callable(v) and n[0] != "_")
    guess = difflib.get_close_matches(name, known, n=1)
    what = "has no" if factory is None else "cannot call its"
    hint = f" - did you mean {guess[0]!r}?" if guess else ""
    raise ConfigurationError(
        f"--model {spec}: {where} {what} {name!r}{hint} ({', '.join(known) or 'nothing to call'})"
    )


def _random_examples(spec: str, options: VerifyOptions) -> tuple[torch.Tensor, torch.Tensor]:
    if options.input_shape is None or options.classes is None:
        raise ConfigurationError(
            f"{spec}() returned a module without examples: add --input-shape 3x32x32 and "
            "--classes 10 for random ones, or return (module, inputs [B, ...], classes [B])"
        )
    parts = re.split(r"[x,]", options.input_shape)
    if not all(part.isdecimal() and int(part) for part in parts) or options.classes < 1:
        raise ConfigurationError(
            f"--input-shape {options.input_shape} --classes {options.classes}: give the size of "
            "one sample, such as 3x32x32, and how many classes there are, such as 10"
        )
    stream = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(RANDOM_SAMPLES, *map(int, parts), generator=stream)
    return inputs, torch.randint(options.classes, (RANDOM_SAMPLES,), generator=stream)


def _of_rank_0(world: World, part: torch.Tensor) -> torch.Tensor:
    """Return rank 0's part on every rank: what a factory drew may differ between ranks."""
    row = part.to(device=world.device, dtype=torch.float64).reshape(1, -1)
    return world.broadcast(row).reshape(part.shape).to(part.dtype).cpu()
