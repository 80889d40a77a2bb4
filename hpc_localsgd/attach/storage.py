"""A module's trained parameters as vectors, without wrapping or replacing anything.

The Parameter objects stay the same objects, so an optimiser's state, its groups and a model's
hooks know nothing of it. Only what they point to moves, once: from then on each is a view of a
vector, one vector for each dtype and device, and that memory never moves again. Every view
begins at an address that is divisible by 16, so where a parameter's length is not, a gap follows.
What torch shards stays where it is (`shards.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpc_localsgd.attach.checksum import checksum
from hpc_localsgd.types import ModelSize

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows

HALF = (torch.float16, torch.bfloat16)  # travel as float32: neither MPI nor Horovod averages them


@dataclass(frozen=True)
class Group(ABC):
    """The parameters of one dtype on one device, or this rank's shards of them.

    Attributes:
        names: As `model.named_parameters()` has them, in its order.
        parameters: The model's own Parameter objects.
        owners: The modules that hold them, and under which name.
        copies: How many ranks of this worker hold the same numbers; 1 where it is one rank.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    owners: tuple[tuple[nn.Module, str], ...]
    copies: int

    @property
    @abstractmethod
    def tensors(self) -> Sequence[torch.Tensor]:
        """What this rank holds of each parameter, in its memory."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[torch.Tensor]:
        """The same numbers in the same order, in as few pieces as their memory allows."""

    @abstractmethod
    def gradient(self, i: int, view: torch.Tensor) -> torch.Tensor:
        """Return a view [as tensor i] in the form that parameter i wants for its gradient."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.parameters[0].dtype

    @cached_property
    def device(self) -> torch.device:
        """Where they are."""
        return self.tensors[0].device

    @property
    def wire_dtype(self) -> torch.dtype:
        """Type in which numbers are sent, and in which an algorithm computes."""
        return wire_dtype(self.dtype)

    @property
    def size(self) -> ModelSize:
        """Lengths and shapes of the tensors, and the bytes of a number on the wire."""
        return ModelSize.of((t.shape for t in self.tensors), self.wire_dtype.itemsize)

    @property
    def P(self) -> int:
        """Number of parameters on this rank, without gaps."""
        return sum(t.numel() for t in self.tensors)

    @contextmanager
    def rows(self) -> Iterator[Rows]:
        """Yield the parameters as rows [1, P] to work on in place.

        Half precision comes as a float32 copy, and so do parameters that are not one piece.
        """
        parts = self.parts
        wide = torch.cat([part.reshape(-1) for part in parts]).to(self.wire_dtype)
        yield wide[None]
        for part, new in zip(parts, wide.split([part.numel() for part in parts]), strict=True):
            part.copy_(new.view(part.shape))

    def fingerprint(self) -> int:
        """Return a checksum of every bit."""
        sums = [checksum(part.contiguous()) for part in self.parts]
        return sum(i * each for i, each in enumerate(sums, 1)) % 2**63

    def finite(self) -> bool:
        """Return whether every number is finite, without a copy of them."""
        ends = [end for part in self.parts if part.numel() for end in torch.aminmax(part)]
        return not ends or bool(torch.isfinite(torch.stack(ends)).all())

    def check(self) -> None:
        """Check that the model still has these parameters.

        Raises:
            RuntimeError: Something replaced one of them.
        """
        for parameter, (owner, leaf), name in zip(
            self.parameters, self.owners, self.names, strict=True
        ):
            if owner._parameters.get(leaf) is not parameter:
                raise RuntimeError(replaced(name))
        self.check_memory()

    @abstractmethod
    def check_memory(self) -> None:
        """Check that exchanges write where the parameters are."""


@dataclass(frozen=True)
class FlatGroup(Group):
    """Parameters that are views of a vector.

    Attributes:
        flat: [P] and the gaps, their storage; gaps hold zeros.
        begins: Where in `flat` each of them begins.
        addresses: Where each of them must be found.
    """

    flat: torch.Tensor
    begins: tuple[int, ...]
    addresses: tuple[int, ...]

    @property
    def tensors(self) -> Sequence[torch.Tensor]:
        """The parameters themselves."""
        return self.parameters

    @cached_property
    def parts(self) -> Sequence[torch.Tensor]:
        """Parts of `flat` between the gaps: those of parameters, in order."""
        parts, begin, end = [], 0, 0
        for first, parameter in zip(self.begins, self.parameters, strict=True):
            if first != end:
                parts.append(self.flat[begin:end])
                begin = first
            end = first + parameter.numel()
        return [*parts, self.flat[begin:end]]

    @cached_property
    def _row(self) -> Rows | None:
        """The parameters as [1, P], if they are one piece of memory in the type that is sent."""
        parts = self.parts
        return parts[0][None] if len(parts) == 1 and self.wire_dtype == self.flat.dtype else None

    @contextmanager
    def rows(self) -> Iterator[Rows]:
        """Yield the parameters as rows [1, P]; without a copy where they are one piece."""
        if self._row is not None:
            yield self._row
            return
        with super().rows() as rows:
            yield rows

    def gradient(self, i: int, view: torch.Tensor) -> torch.Tensor:
        """Return the view."""
        del i
        return view

    def fingerprint(self) -> int:
        """Return a checksum of every bit."""
        return checksum(self.flat)

    def finite(self) -> bool:
        """Return whether every number is finite, gaps and all in one look."""
        if not len(self.flat):
            return True
        return bool(torch.isfinite(torch.stack(torch.aminmax(self.flat))).all())

    def check_memory(self) -> None:
        """Check that the parameters are still where they were put.

        Raises:
            RuntimeError: Something moved one of them.
        """
        for parameter, address, name in zip(
            self.parameters, self.addresses, self.names, strict=True
        ):
            if parameter.data_ptr() != address:
                raise RuntimeError(
                    f"the parameter {name} was moved to other memory after attach "
                    "(model.to(), model.half(), p.data = ..., flatten_parameters(), "
                    "share_memory()?): do it before attach, write p.data.copy_(...) for p.data = "
                    "..., or call sync.detach() and attach again"
                )


def replaced(name: str) -> str:
    """Describe a parameter that the model no longer has under its name."""
    return (
        f"the parameter {name} is another object than at attach, or gone (a module replaced, "
        "resized, pruned or parametrized, load_state_dict(assign=True)?), and what is there now "
        "would not be "
        "exchanged: do it before attach, or call sync.finish() before it and attach again after it"
    )


def wire_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which numbers of this dtype are sent."""
    return torch.float32 if dtype in HALF else dtype
