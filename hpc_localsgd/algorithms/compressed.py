"""The average of all workers' vectors, sent through a codec. Used by algorithms, not one itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpc_localsgd.compressors.base import compress

if TYPE_CHECKING:
    from hpc_localsgd.compressors.base import Compressor
    from hpc_localsgd.types import Rows
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
        p = x if memory is None else x.add_(memory)
        sent = codec.decode(codec.encode(p, sizes), sizes, p.dtype)
        memory = p - sent if codec.error_feedback else None
        return world.mean_elementwise(x, codec), memory
    sent, memory = compress(codec, x, memory, sizes)
    total = torch.zeros_like(x[0])
    for row in world.gather_bytes(sent):  # one at a time: K decoded rows may not fit
        total += codec.decode(row[None], sizes, x.dtype)[0]
    x[:] = total / world.size
    return x, memory
