"""Optimisers of whole matrices (Muon), for workers whose parameters are rows.

Each worker's matrices are stepped by themselves, as in a run of its own; what is not a matrix of a
hidden layer (embeddings, the read-out, biases, norms, filters) is stepped by AdamW, all workers at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, groupby
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.without_compiler import take_step

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task

Shapes = tuple[tuple[int, int], ...]
_KNOWN = tuple(getattr(torch.optim, name) for name in ("Muon",) if hasattr(torch.optim, name))


def looks_at_matrices(make: Callable[[Iterable[Any]], torch.optim.Optimizer]) -> bool:
    """Return whether what this makes is Muon, or a class that says `looks_at_matrices = True`."""
    try:
        made = make([{"params": [nn.Parameter(torch.zeros(1, 1))]}])
    except Exception:  # it is reported where the optimiser is made
        return False
    return isinstance(made, _KNOWN) or getattr(made, "looks_at_matrices", False)


def runs(task: Task) -> list[tuple[int, int, Shapes]]:
    """Return the columns of x that are stepped together: begin, end, and the matrices there.

    Runs of neighbours that are matrices of hidden layers, or are not (no shapes then), or take
    weight decay, or do not.
    """
    ends = list(accumulate(task.sizes))
    tensors = [
        (end - size, end, task.matrices[i] if i < len(task.matrices) else None)
        for i, (size, end) in enumerate(zip(task.sizes, ends, strict=True))
        if size
    ]
    found = []
    alike = groupby(tensors, key=lambda each: (each[2] is not None, each[1] <= task.decayed))
    for _, group in alike:
        run = list(group)
        found.append((run[0][0], run[-1][1], tuple(shape for _, _, shape in run if shape)))
    return found


class MatrixOptimizer(torch.optim.Optimizer):
    """An optimiser of matrices for each worker's own, and AdamW for the rest.

    The state of a run of columns is one tensor [R, columns], as that of element-wise optimisers, so
    that it is kept, averaged, reset and saved as theirs is.
    """

    def __init__(
        self,
        make: Callable[[Iterable[Any]], torch.optim.Optimizer],
        parameters: Sequence[nn.Parameter],
        shapes: Sequence[Shapes],
    ) -> None:
        """Take over rows of parameters.

        Args:
            make: Makes the optimiser of matrices.
            parameters: [R, n] each.
            shapes: Those of the matrices in a row of each; none where AdamW is to step it.

        Raises:
            ConfigurationError: There is no matrix at all.
        """
        if not any(shapes):
            raise ConfigurationError(
                "--optimizer: it steps matrices of hidden layers, and this model has none besides "
                "embeddings and a read-out: use an element-wise one (SGD, Adam, AdamW, RMSprop)"
            )
        made = make([{"params": [nn.Parameter(torch.zeros(1, 1))]}])
        own = made.defaults
        adam = torch.optim.AdamW([nn.Parameter(torch.zeros(1, 1))]).defaults
        rest = {**adam, "weight_decay": own.get("weight_decay", 0.0)}
        groups = [
            {"params": [p], "shapes": matrices, **(own if matrices else rest)}
            for p, matrices in zip(parameters, shapes, strict=True)
        ]
        super().__init__(groups, {})
        self._kind: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = type(made)
        self._inner: dict[torch.Tensor, torch.optim.Optimizer] = {}
        self.defaults, self.shown_as = own, f"{type(made).__name__} and AdamW"

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of; torch's own leaves out what a class of its own has."""
        own = {"_kind": self._kind, "_inner": {}, "shown_as": self.shown_as}
        return {**super().__getstate__(), **own}

    def step(self, closure: Any = None) -> Any:
        """Take a step of all workers."""
        assert closure is None, "plain steps only"
        for group in self.param_groups:
            options = {k: v for k, v in group.items() if k not in ("params", "shapes")}
            (p,) = group["params"]
            inner = self._inner_of(p, group["shapes"])
            inner.param_groups[0].update(options)
            if group["shapes"]:
                self._step_matrices(p, group["shapes"], inner)
            else:
                inner.state[p] = self.state[p]
                take_step(inner)

    def _inner_of(self, p: torch.Tensor, shapes: Shapes) -> torch.optim.Optimizer:
        """Return what steps p, made once; its hyper-parameters and state are set at every step."""
        if p not in self._inner and shapes:
            self._inner[p] = self._kind([nn.Parameter(m) for m in _parts(p.detach(), shapes)])
        elif p not in self._inner:
            self._inner[p] = torch.optim.AdamW([p])
        return self._inner[p]

    def _step_matrices(self, p: torch.Tensor, shapes: Shapes, inner: torch.optim.Optimizer) -> None:
        """Step the matrices of every row, each with its part of the rows' state."""
        state = self.state[p]
        grad = p.grad
        assert grad is not None
        views = inner.param_groups[0]["params"]
        for view, g in zip(views, _parts(grad, shapes), strict=True):
            view.grad = g
        rows = {k: _parts(v, shapes) if _is_row(v, p) else None for k, v in state.items()}
        for i, view in enumerate(views):  # counts are each one's own, kept once
            inner.state[view] = {
                name: parts[i] if parts else _copied(state[name]) for name, parts in rows.items()
            }
        take_step(inner)
        for name, value in inner.state[views[0]].items():
            mine = [inner.state[view][name] for view in views]
            if not (isinstance(value, torch.Tensor) and value.shape == views[0].shape):
                _check_shared(type(inner), name, value)
                state[name] = value
            elif name not in state:
                flat = torch.cat([part.reshape(-1) for part in mine])
                state[name] = flat.view(p.shape)
            else:
                for part, new in zip(_parts(state[name], shapes), mine, strict=True):
                    if part.data_ptr() != new.data_ptr():  # it was not changed in place
                        part.copy_(new)


def _check_shared(kind: type, name: str, value: Any) -> None:
    """Check that what is kept once for all matrices is one number, a count of steps say.

    Raises:
        ConfigurationError: It has another shape than the matrix: each would need its own.
    """
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        raise ConfigurationError(
            f"--optimizer: {kind.__name__} keeps {name!r} of shape {tuple(value.shape)}, not that "
            "of its matrix: only states of the shape of the matrix, or one number, are supported"
        )


def _parts(rows: torch.Tensor, shapes: Shapes) -> list[torch.Tensor]:
    """Return the matrices of each row of [R, n] as views, row by row."""
    sizes = [prod(shape) for shape in shapes]
    return [
        part.view(shape)
        for row in rows
        for part, shape in zip(row.split(sizes), shapes, strict=True)
    ]


def _is_row(value: Any, p: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == p.shape


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
