"""Several vectors through one graph: V J for rows V, in one batched pass where that is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows

BATCHED_P = 4_000  # on a CPU, larger models gain nothing from several vectors in one pass


class PullBack:
    """Products of rows with the Jacobian of one tensor by another, through autograd.

    torch's batching of a second backward pass is wrong for some layers (GroupNorm in 2.13), and
    whether it then raises depends on the shapes: so the first batched pass of every shape is
    compared with the vectors one by one.

    Attributes:
        batching: Whether several vectors in one pass are worth trying.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        """Prepare for a model of `dim` parameters: on a CPU one pass of a large model fills it."""
        self.batching = device.type == "cuda" or dim <= BATCHED_P
        self._right: dict[tuple[int, ...], bool] = {}

    def __call__(self, of: torch.Tensor, by: torch.Tensor, rows: Rows, keep: bool) -> torch.Tensor:
        """Return rows [m, *of] times d of / d by: [m, *by].

        Args:
            of: A tensor with a graph.
            by: A tensor that the graph begins with.
            rows: m tensors of the shape of `of`.
            keep: Whether the graph is needed again.
        """
        shape = tuple(rows.shape)
        if len(rows) == 1 or not self.batching or self._right.get(shape) is False:
            return _one_by_one(of, by, rows, keep)
        if shape in self._right:
            return _in_one_pass(of, by, rows, keep)
        try:
            found: torch.Tensor | None = _in_one_pass(of, by, rows, keep=True)
        except RuntimeError:
            found = None
        checked = _one_by_one(of, by, rows, keep)
        slack = 1e4 * torch.finfo(by.dtype).eps * float(checked.norm())
        self._right[shape] = found is not None and float((found - checked).norm()) <= slack
        return checked


def _in_one_pass(of: torch.Tensor, by: torch.Tensor, rows: Rows, keep: bool) -> torch.Tensor:
    how: dict[str, Any] = {"retain_graph": keep, "materialize_grads": True}
    return torch.autograd.grad(of, by, rows, is_grads_batched=True, **how)[0]


def _one_by_one(of: torch.Tensor, by: torch.Tensor, rows: Rows, keep: bool) -> torch.Tensor:
    last = len(rows) - 1
    found = []
    for i, row in enumerate(rows):
        how: dict[str, Any] = {"retain_graph": keep or i < last, "materialize_grads": True}
        found.append(torch.autograd.grad(of, by, row, **how)[0])
    return torch.stack(found)
