"""Which parameters rounds exchange, whether they can be, and in which groups."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from hpc_localsgd.attach.flat_views import aligned, cut_views
from hpc_localsgd.attach.shards import ShardGroup, copies, is_sharded, local
from hpc_localsgd.attach.storage import FlatGroup, Group
from hpc_localsgd.errors import ConfigurationError


def grouped(model: nn.Module, named: Mapping[str, nn.Parameter], ranks: int = 1) -> list[Group]:
    """Group parameters, and move those that torch does not shard into flat vectors.

    Values and strides (channels_last) are unchanged.

    Args:
        model: Holds them.
        named: What is to be exchanged, each Parameter once, checked by `check_fit`.
        ranks: Of one worker, which share what is sharded.

    Returns:
        One group for each dtype, device and number of copies, in order of appearance.
    """
    kinds: dict[object, dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        kind = (parameter.dtype, local(parameter).device, is_sharded(parameter))
        kinds.setdefault((*kind, copies(parameter, ranks)), {})[name] = parameter
    return [_group(model, members, ranks) for members in kinds.values()]


def _group(model: nn.Module, named: Mapping[str, nn.Parameter], ranks: int) -> Group:
    parameters = tuple(named.values())
    paths = [name.rpartition(".") for name in named]
    owners = tuple((model.get_submodule(owner), leaf) for owner, _, leaf in paths)
    whose = (tuple(named), parameters, owners, copies(parameters[0], ranks))
    if is_sharded(parameters[0]):
        return ShardGroup(*whose)
    begins, length = aligned(parameters)
    flat = torch.zeros(length, dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, view in zip(parameters, cut_views(flat, parameters, begins), strict=True):
        view.copy_(parameter.detach())
        parameter.data = view
    return FlatGroup(*whose, flat, begins, tuple(p.data_ptr() for p in parameters))


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
    held = [(name, local(p)) for name, p in named.items()]
    spans = sorted((t.data_ptr(), name, t) for name, t in held if t.numel())
    for (begin, first, t), (after, second, _) in zip(spans, spans[1:], strict=False):
        last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        if begin + (last + 1) * t.itemsize > after:
            raise ConfigurationError(
                f"{first} and {second} are two Parameters with the same memory: "
                "tie them by using one Parameter in both places"
            )
