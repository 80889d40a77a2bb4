"""Within vmap the cross entropy has the bits of torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from hpc_localsgd.tasks.cross_entropy import IGNORED, CrossEntropy

R, B, C = 3, 5, 4


def targets(places: tuple[int, ...], kind: str) -> torch.Tensor:
    stream = torch.Generator().manual_seed(1)
    if kind == "probabilities":
        return torch.rand(R, B, C, *places, generator=stream, dtype=torch.float64).softmax(2)
    labels = torch.randint(C, (R, B, *places), generator=stream)
    if kind == "ignored":
        labels[:, 1:3] = IGNORED
    return labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("places", [(), (6,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_torch(
    dtype: torch.dtype, places: tuple[int, ...], kind: str, smoothing: float
) -> None:
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(R, B, C, *places, generator=stream, dtype=dtype) * 5
    given = targets(places, kind)
    given = given.to(dtype) if given.is_floating_point() else given
    ours = CrossEntropy(smoothing)

    def theirs(logits: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, given, label_smoothing=smoothing)

    found = [vmap(grad_and_value(loss))(logits, given) for loss in (ours.in_vmap, theirs)]
    for mine, expected in zip(*found, strict=True):
        assert torch.equal(mine, expected)
    alone = torch.stack([ours(*one) for one in zip(logits, given, strict=True)])
    torch.testing.assert_close(found[0][1], alone)


def test_a_label_that_is_no_class_is_an_error() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        vmap(CrossEntropy().in_vmap)(torch.zeros(R, B, C), torch.full((R, B), C))
