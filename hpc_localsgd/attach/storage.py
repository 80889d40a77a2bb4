"""A module's trained parameters as flat vectors, without wrapping or replacing anything.

The Parameter objects stay the same objects, so an optimiser's state, its groups and a model's
hooks know nothing of it. Only what they point to moves, once: from then on each is a window of a
vector, one vector for each dtype and device, and that memory never moves again. Every window
begins at an address that is divisible by 16, so where a parameter's length is not, a gap follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpc_localsgd.attach.windows import aligned, windows
from hpc_localsgd.types import ConfigurationError, ModelSize

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows

HALF = (torch.float16, torch.bfloat16)  # travel as float32: neither MPI nor Horovod averages them


@dataclass(frozen=True)
class Group:
    """The parameters of one dtype on one device, and the vector they are windows of.

    Attributes:
        names: As `model.named_parameters()` has them, in its order.
        parameters: The model's own Parameter objects.
        flat: [P] and the gaps, their storage; gaps hold zeros.
        begins: Where in `flat` each of them begins.
        addresses: Where each of them must be found.
        owners: The modules that hold them, and under which name.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    flat: torch.Tensor
    begins: tuple[int, ...]
    addresses: tuple[int, ...]
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def wire_dtype(self) -> torch.dtype:
        """Type in which numbers are sent, and in which an algorithm computes."""
        return wire_dtype(self.flat.dtype)

    @property
    def size(self) -> ModelSize:
        """Lengths of the tensors, and the bytes of a number on the wire."""
        return ModelSize(tuple(p.numel() for p in self.parameters), self.wire_dtype.itemsize)

    @property
    def P(self) -> int:
        """Number of parameters, without gaps."""
        return sum(p.numel() for p in self.parameters)

    @cached_property
    def without_gaps(self) -> list[torch.Tensor]:
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
        parts = self.without_gaps
        return parts[0][None] if len(parts) == 1 and self.wire_dtype == self.flat.dtype else None

    @contextmanager
    def rows(self) -> Iterator[Rows]:
        """Lend the parameters as rows [1, P] to work on in place.

        Half precision comes as a float32 copy, and so do parameters with gaps between them.
        """
        if self._row is not None:
            yield self._row
            return
        parts = self.without_gaps
        wide = torch.cat(parts).to(self.wire_dtype)
        yield wide[None]
        for part, new in zip(parts, wide.split([len(part) for part in parts]), strict=True):
            part.copy_(new)

    def fingerprint(self) -> int:
        """Return a checksum of every bit."""
        return checksum(self.flat)

    def finite(self) -> bool:
        """Return whether every number is finite, without a copy of them."""
        if not len(self.flat):
            return True
        return bool(torch.isfinite(torch.stack(torch.aminmax(self.flat))).all())

    def check(self) -> None:
        """Check that the parameters are still where they were put.

        Raises:
            RuntimeError: Something moved one of them.
        """
        for i, (owner, leaf) in enumerate(self.owners):
            parameter, now = self.parameters[i], owner._parameters.get(leaf)
            if now is not parameter:
                raise RuntimeError(replaced(self.names[i]))
            if parameter.data_ptr() != self.addresses[i]:
                raise RuntimeError(
                    f"the parameter {self.names[i]} was moved to other memory after attach "
                    "(model.to(), load_state_dict(assign=True), flatten_parameters(), "
                    "share_memory()?): do it before attach, or call sync.detach() and attach again"
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


def checksum(x: torch.Tensor) -> int:
    """Return a checksum of every bit of a contiguous tensor."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(x.itemsize, torch.uint8)
    return int(x.detach().view(-1).view(integer).sum(dtype=torch.int64))


def flatten(model: nn.Module, named: Mapping[str, nn.Parameter]) -> list[Group]:
    """Move parameters into flat vectors, values and strides (channels_last) unchanged.

    Args:
        model: Holds them.
        named: What is to be exchanged, each Parameter once, checked by `check_fit`.

    Returns:
        One group for each dtype and device, in order of appearance.
    """
    kinds: dict[tuple[torch.dtype, torch.device], dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        kinds.setdefault((parameter.dtype, parameter.device), {})[name] = parameter
    return [_group(model, members) for members in kinds.values()]


def _group(model: nn.Module, named: Mapping[str, nn.Parameter]) -> Group:
    parameters = tuple(named.values())
    begins, length = aligned(parameters)
    flat = torch.zeros(length, dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, view in zip(parameters, windows(flat, parameters, begins), strict=True):
        view.copy_(parameter.detach())
        parameter.data = view
    addresses = tuple(p.data_ptr() for p in parameters)
    paths = [name.rpartition(".") for name in named]
    owners = tuple((model.get_submodule(owner), leaf) for owner, _, leaf in paths)
    return Group(tuple(named), parameters, flat, begins, addresses, owners)


def trained(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, nn.Parameter], list[nn.Parameter]]:
    """Return the optimiser's parameters that require a gradient, by name, and the rest.

    Raises:
        ConfigurationError: The optimiser trains something that is not in the model.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ConfigurationError(
                    f"the optimizer's group {number} has a parameter of shape "
                    f"{list(parameter.shape)} that is not in the model: give attach a module that "
                    "holds everything the optimizer trains, e.g. nn.ModuleList([model, loss])"
                )
    named = {n: p for n, p in model.named_parameters() if id(p) in optimised and p.requires_grad}
    frozen = [p for p in model.parameters() if id(p) in optimised and not p.requires_grad]
    return named, frozen


def check_fit(named: Mapping[str, nn.Parameter]) -> None:
    """Check that these parameters can be moved.

    Raises:
        ConfigurationError: There are none, or one is lazy, on "meta", complex, or shares its
            memory with another Parameter (the same Parameter in two places is fine).
    """
    if not named:
        raise ConfigurationError("the optimizer trains no parameter of the model: nothing to sync")
    for name, p in named.items():
        if nn.parameter.is_lazy(p) or p.is_meta:
            raise ConfigurationError(f"{name} has no memory yet: run the model once before attach")
        if not p.is_floating_point():
            raise ConfigurationError(f"{name} is {p.dtype}: only real numbers can be averaged")
    spans = sorted((p.data_ptr(), name, p) for name, p in named.items() if p.numel())
    for (begin, first, p), (after, second, _) in zip(spans, spans[1:], strict=False):
        last = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
        if begin + (last + 1) * p.itemsize > after:
            raise ConfigurationError(
                f"{first} and {second} are two Parameters with the same memory: "
                "tie them by using one Parameter in both places"
            )
