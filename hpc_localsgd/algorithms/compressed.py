"""The average of all workers' vectors, sent through a codec. Used by algorithms; not one itself."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from hpc_localsgd.compressors.base import Compressor, MatrixCompression, compress
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import lengths

if TYPE_CHECKING:
    from hpc_localsgd.compressors.base import Compression
    from hpc_localsgd.types import ModelSize, Rows, State, Vector
    from hpc_localsgd.worlds.base import World

# Lengths of the model's tensors in the vector, or their shapes for a `MatrixCompression`.
Tensors: TypeAlias = Any


def coded_state(codec: Compression | None, x: Rows, model: ModelSize) -> State:
    """Return what an algorithm remembers for its codec: `sizes`, and `memory` of what was lost.

    Raises:
        ConfigurationError: The codec needs the shapes of the tensors, and they are not known.
    """
    tensors = tensors_of(codec, model)
    memory = None
    if isinstance(codec, MatrixCompression):
        memory = x.new_zeros(len(x), sum(codec.columns(tensors)))
    return {"memory": memory, "sizes": tensors}


def tensors_of(codec: Compression | None, model: ModelSize) -> Tensors:
    """Return the model's tensors as the codec wants them, see `Tensors`.

    Raises:
        ConfigurationError: See `coded_state`.
    """
    if not isinstance(codec, MatrixCompression):
        return model.sizes
    if not model.shapes:
        raise ConfigurationError(
            f"{codec!r} codes matrices, and the shapes of this model's tensors are not known: use "
            "another compressor (int4, top_k), or a task that has them (a plan: leave out "
            "--parameters)"
        )
    return model.shapes


def compressed_mean(
    x: Rows, codec: Compression | None, memory: Rows | None, sizes: Tensors, world: World
) -> tuple[Rows, Rows | None]:
    """Replace each row by mean_k decode(encode(x_k + memory_k)), in place.

    The decoded rows are averaged, never their parts: mean(scale sign), not mean(scale) mean(sign)
    as in Lin et al.'s released code, so that error feedback telescopes exactly. Element-wise codecs
    (fp16, bf16) code the average once more, as `World.mean_elementwise` says: there it telescopes
    up to that rounding.

    Args:
        x: [R, P], the vector of each worker; overwritten.
        codec: None sends the numbers as they are.
        memory: [R, P], what earlier messages lost; None for nothing.
        sizes: The model's tensors, see `Tensors`.
        world: Who the workers are.

    Returns:
        The average in every row, and the new memory.
    """
    if codec is None:
        return world.mean(x), None
    if isinstance(codec, MatrixCompression):
        assert memory is not None
        return codec.mean(x, memory, sizes, world.mean)
    assert isinstance(codec, Compressor)
    if codec.elementwise:
        p = x if memory is None else x.add_(memory, alpha=codec.decay)
        sent = codec.decode(codec.encode(p, sizes), sizes, p.dtype)
        memory = p - sent if codec.error_feedback else None
        return world.mean_elementwise(x, codec), memory
    sent, memory = compress(codec, x, memory, sizes)
    total = torch.zeros_like(x[0])
    for row in world.gather_bytes(sent):  # one at a time: K decoded rows may not fit
        total += codec.decode(row[None], sizes, x.dtype)[0]
    x[:] = total / world.K
    return x, memory


def mean_of_parameters(
    x: Rows,
    anchor: Vector | None,
    codec: Compression | None,
    memory: Rows | None,
    sizes: Tensors,
    world: World,
) -> tuple[Rows, Rows | None]:
    """Replace each row by mean_k x_k, or anchor - mean_k C(anchor - x_k + memory_k), in place.

    The anchor [P] is what all workers last agreed on; it is not changed, and not needed without a
    codec. The rest is as for `compressed_mean`.
    """
    if codec is None or anchor is None:
        return world.mean(x), None
    x, memory = compressed_mean(x.sub_(anchor).neg_(), codec, memory, sizes, world)
    return x.neg_().add_(anchor), memory


def mean_of_part(
    x: Rows, state: State, codec: Compression, part: slice, sizes: Tensors, world: World
) -> tuple[Rows, Rows | None]:
    """Return `mean_of_parameters` of x [R, n], a part of the vector with tensors of these sizes.

    The anchor [P] and the memory [R, P] of the state, and the memory returned, are of the whole.
    """
    anchor, memory = state["anchor"], state["memory"]
    kept = _columns(codec, state["sizes"], part)
    lost = None if memory is None else memory[:, kept]
    x, lost = mean_of_parameters(x, anchor[part], codec, lost, sizes, world)
    if lost is not None:
        memory = x.new_zeros(len(x), len(anchor)) if memory is None else memory
        memory[:, kept] = lost
    return x, memory


def coded_bytes(codec: Compression | None, model: ModelSize, part: Tensors | None = None) -> int:
    """Return the bytes of one copy of the parameters, or of its code; of a part of the tensors."""
    tensors = tensors_of(codec, model) if part is None else part
    return sum(tensors) * model.itemsize if codec is None else codec.nbytes(tensors, model.itemsize)


def _columns(codec: Compression, tensors: Tensors, part: slice) -> slice:
    """Return the columns of the memory of a part of the vector: the same, or those of the codec."""
    if not isinstance(codec, MatrixCompression):
        return part
    ends = [0, *accumulate(lengths(tensors))]
    kept = [0, *accumulate(codec.columns(tensors))]
    return slice(kept[ends.index(part.start)], kept[ends.index(part.stop)])
