"""The legend of the package: the letters and the array shapes used in every signature.

    K  workers of the run          R  workers living in this process (K = ranks x R)
    P  parameters, one flat vector H  local steps in a round
    t  global step, counted in optimiser steps (0-based: step t is the one about to be taken)
    s  round (0-based)             lr learning rate (eta in the papers)

A *worker* is one model replica that takes local steps, a *rank* one process, a *round* H local
steps and the exchange that ends them. *Spread* (the consensus distance of the papers) is
mean_k ||x_k - mean||^2.

This file imports nothing of ours but errors, and torch only for the type checker, so that planning
a run and reading its record need neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from hpc_localsgd.errors import ConfigurationError as ConfigurationError  # it was here in 0.1

if TYPE_CHECKING:
    import torch

    Rows: TypeAlias = torch.Tensor  # [R, P]: one row for each worker living in this process
    Vector: TypeAlias = torch.Tensor  # [P]
    Losses: TypeAlias = torch.Tensor  # [R]

Shape: TypeAlias = tuple[int, ...]
State: TypeAlias = dict[str, Any]  # what an algorithm remembers between two calls


@dataclass(frozen=True)
class Now:
    """The position in the run at which an algorithm is called.

    Attributes:
        t: The optimiser step being taken (`on_gradient`), or just taken (`on_sync`).
        s: The round, counted from 0.
        H: Length of this round in steps.
        h: Place of step t in the round, 0..H-1; H-1 in `on_sync`.
        lr: Learning rate of the step t.
        lr_round: Learning rate at the first step of the round. Rules that divide by the learning
            rate (SlowMo) use this one, so that a decay inside a round does not change their units.
        last: Whether this is the last round of the run, whose exchange is the final average.
        parallel: Whether all rounds so far, this one included, had length 1.
    """

    t: int
    s: int
    H: int
    h: int
    lr: float
    lr_round: float
    last: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class ModelSize:
    """Lengths of a model's tensors in the flat vector, and the bytes of a number.

    Attributes:
        sizes: Length of each tensor; they sum to P.
        itemsize: Bytes of one number: 4 in float32, 8 in float64.
        shapes: Their shapes; empty where they are unknown.
    """

    sizes: tuple[int, ...]
    itemsize: int = 4
    shapes: tuple[Shape, ...] = ()

    @staticmethod
    def of(shapes: Iterable[Iterable[int]], itemsize: int = 4) -> ModelSize:
        """Return that of tensors of these shapes."""
        known = tuple(tuple(shape) for shape in shapes)
        return ModelSize(lengths(known), itemsize, known)

    @property
    def P(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of one uncompressed copy."""
        return self.P * self.itemsize


def lengths(tensors: Iterable[int | Shape]) -> tuple[int, ...]:
    """Return the lengths of tensors given by their lengths or by their shapes.

    >>> lengths([3, (2, 4), ()])
    (3, 8, 1)
    """
    return tuple(each if isinstance(each, int) else prod(each) for each in tensors)


def legend(thing: Any) -> str:
    """Return the name of an object in figures and tables: its class, and non-default options."""
    if not is_dataclass(thing) or isinstance(thing, type):
        return repr(thing)
    changed = [
        f"{field.name}={legend(getattr(thing, field.name))}"
        for field in fields(thing)
        if field.repr and getattr(thing, field.name) != _default(field)
    ]
    name = type(thing).__name__
    return f"{name}({', '.join(changed)})" if changed else name


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
