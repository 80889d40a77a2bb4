"""The power iteration of `spectral_norm`, for weights that have just become a mean."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

ITERATIONS = 15  # as many as torch takes for a new weight


@torch.no_grad()
def iterate(model: nn.Module) -> None:
    """Iterate u, v of every spectrally normalised weight to its largest singular value.

    Each worker's u and v are of its own weight. Without this the mean weight would be divided by a
    number that is too small, which multiplies from layer to layer.
    """
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():  # torch.nn.utils.spectral_norm
            if isinstance(hook, SpectralNorm) and _trains(module, hook.name + "_orig"):
                for _ in range(ITERATIONS):
                    hook.compute_weight(module, do_power_iteration=True)
        if parametrize.is_parametrized(module):
            _iterate_parametrized(module)


def _iterate_parametrized(module: nn.Module) -> None:
    """Evaluate the weight as in training, which is one iteration."""
    held = module.parametrizations
    assert isinstance(held, nn.ModuleDict)
    for name, steps in held.items():
        assert isinstance(steps, nn.ModuleList)
        norms = [step for step in steps if isinstance(step, _SpectralNorm)]
        if not norms or not any(p.requires_grad for p in steps.parameters()):
            continue
        modes = [norm.training for norm in norms]
        try:
            for norm in norms:
                norm.training = True
            for _ in range(ITERATIONS):
                getattr(module, name)
        finally:
            for norm, mode in zip(norms, modes, strict=True):
                norm.training = mode


def _trains(module: nn.Module, name: str) -> bool:
    weight = getattr(module, name, None)
    return isinstance(weight, nn.Parameter) and weight.requires_grad
