"""Where the tensors of a module lie in flat vectors, and a module bound to such vectors.

Parameters that take weight decay come first, so that the optimiser's two groups are two slices of
the vector. Tied parameters are in it once, frozen ones (`requires_grad` is False) not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a module lies in the flat vector.

    Attributes:
        names: Names of the parameters that are trained, in the order of the vector.
        shapes: Their shapes.
        decayed: Length of the leading part that takes weight decay.
        buffers: Names of the floating-point buffers.
        buffer_shapes: Their shapes. Integer buffers (BatchNorm's counters) are never exchanged.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    decayed: int
    buffers: tuple[str, ...]
    buffer_shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each parameter tensor."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def buffer_sizes(self) -> tuple[int, ...]:
        """Number of elements of each floating-point buffer."""
        return tuple(shape.numel() for shape in self.buffer_shapes)

    @staticmethod
    def of(module: nn.Module) -> Layout:
        """Return the layout of a module: matrices and filters first, then vectors (biases, norms).

        Raises:
            ConfigurationError: The module has nothing to train.
        """
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trained:
            raise ConfigurationError(
                f"the model ({type(module).__name__}) has no parameter that requires a gradient: "
                "there is nothing to train"
            )
        named = sorted(trained, key=lambda item: item[1].ndim < 2)
        floats = [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
        return Layout(
            names=tuple(name for name, _ in named),
            shapes=tuple(p.shape for _, p in named),
            decayed=sum(p.numel() for _, p in named if p.ndim >= 2),
            buffers=tuple(name for name, _ in floats),
            buffer_shapes=tuple(b.shape for _, b in floats),
        )

    def flatten(self, module: nn.Module) -> torch.Tensor:
        """Return the parameters of a module as one vector [P], copied."""
        named = dict(module.named_parameters())
        return torch.cat([named[name].detach().reshape(-1) for name in self.names])

    def flatten_buffers(self, module: nn.Module) -> torch.Tensor:
        """Return the floating-point buffers of a module as one vector [Q], copied."""
        named = dict(module.named_buffers())
        flat = [named[name].reshape(-1) for name in self.buffers]
        return torch.cat(flat) if flat else torch.empty(0)

    def views(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return parameters by name as views of a vector [P]; one `split`, cheap under autograd."""
        parts = x.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def buffer_views(self, buffers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return buffers by name as views of a vector [Q]."""
        parts = buffers.split(self.buffer_sizes)
        named = zip(self.buffers, parts, self.buffer_shapes, strict=True)
        return {n: p.view(s) for n, p, s in named}


def hidden_matrices(module: nn.Module, layout: Layout) -> tuple[tuple[int, int] | None, ...]:
    """Return for each tensor its shape [n, m] if it is a matrix of a hidden layer, else None.

    Embeddings are none, and neither is the last matrix of the module, its read-out, unless a layer
    shares the matrix of an embedding and is that: where rows or columns are tokens or classes,
    Muon's authors use AdamW, as for vectors and filters.
    """
    embeddings = {
        id(p)
        for inside in module.modules()
        if isinstance(inside, nn.Embedding | nn.EmbeddingBag)
        for p in inside.parameters()
    }
    others = (m for m in module.modules() if not isinstance(m, nn.Embedding | nn.EmbeddingBag))
    tied = any(id(p) in embeddings for m in others for p in m.parameters(recurse=False))
    named = dict(module.named_parameters())
    matrices = [n for n, p in named.items() if p.ndim == 2 and id(p) not in embeddings]
    matrices = matrices if tied else matrices[:-1]
    hidden = {name: tuple(named[name].shape) for name in matrices if name in layout.names}
    return tuple(hidden.get(name) for name in layout.names)  # type: ignore[misc]


def bind(
    module: nn.Module,
    layout: Layout,
    x: torch.Tensor,
    buffers: torch.Tensor,
    g: torch.Tensor | None = None,
) -> nn.Module:
    """Make a module's parameters, buffers and gradients views of x [P], buffers [Q], g [P]."""
    parameters = dict(module.named_parameters())
    for name, view in layout.views(x).items():
        parameters[name].data = view
    if g is not None:
        for name, view in layout.views(g).items():
            parameters[name].grad = view
    places = _places(module)
    for name, view in layout.buffer_views(buffers).items():
        for place in places[name]:
            owner, _, leaf = place.rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = view
    return module


def _places(module: nn.Module) -> dict[str, list[str]]:
    """Map each buffer to all names of its tensor: it may be shared, as a parameter may."""
    first: dict[int, str] = {}
    places: dict[str, list[str]] = {}
    for name, buffer in module.named_buffers(remove_duplicate=False):
        places.setdefault(first.setdefault(id(buffer), name), []).append(name)
    return places
