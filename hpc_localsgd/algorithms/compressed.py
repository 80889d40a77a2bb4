"""The average of all workers' vectors, sent through a codec. Used by algorithms, none itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpc_localsgd.compressors.base import compress

if TYPE_CHECKING:
    from hpc_localsgd.compressors.base import Compressor
    from hpc_localsgd.types import ModelSize, Rows, State, Vector
    from hpc_localsgd.worlds.base import World


def compressed_mean(
    x: Rows, codec: Compressor | None, memory: Rows | None, sizes: tuple[int, ...], world: World
) -> tuple[Rows, Rows | None]:
    """Replace each row by mean_k decode(encode(x_k + memory_k)), in place.

    The decoded rows are averaged, never their parts: mean(scale sign), not mean(scale) mean(sign)
    as in Lin et al.'s released code, so that error feedback telescopes exactly. Element-wise codecs
    (fp16, bf16) code the average once more, as `World.mean_elementwise` says: there it telescopes
    up to that rounding.

    Args:
        x: [R, P], what each worker has to say; overwritten.
        codec: None sends the numbers as they are.
        memory: [R, P], what earlier messages lost; None for nothing.
        sizes: Lengths of the model's tensors in the vector.
        world: Who the workers are.

    Returns:
        The average in every row, and the new memory.
    """
    if codec is None:
        return world.mean(x), None
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
    codec: Compressor | None,
    memory: Rows | None,
    sizes: tuple[int, ...],
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
    x: Rows, state: State, codec: Compressor, part: slice, sizes: tuple[int, ...], world: World
) -> tuple[Rows, Rows | None]:
    """Return `mean_of_parameters` of x [R, n], a part of the vector with tensors of these sizes.

    The anchor [P] and the memory [R, P] of the state, and the memory returned, are of the whole.
    """
    anchor, memory = state["anchor"], state["memory"]
    lost = None if memory is None else memory[:, part]
    x, lost = mean_of_parameters(x, anchor[part], codec, lost, sizes, world)
    if lost is not None:
        memory = x.new_zeros(len(x), len(anchor)) if memory is None else memory
        memory[:, part] = lost
    return x, memory


def coded_bytes(codec: Compressor | None, model: ModelSize) -> int:
    """Return the bytes of one copy of the parameters, or of its code."""
    return model.nbytes if codec is None else codec.payload(model.sizes)
