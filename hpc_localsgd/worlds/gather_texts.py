"""Short texts of the workers, gathered on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World


def gather_texts(world: World, text: str, size: int) -> list[str]:
    """Return a short text of each of the K workers, on every rank. A collective, not billed.

    Args:
        world: Who the workers are.
        text: This rank's.
        size: Bytes of it that travel, the same on all ranks.
    """
    raw = text.encode(errors="backslashreplace")[:size].ljust(size, b"\0")
    rows = world.gather(np.tile(np.frombuffer(raw, dtype=np.uint8), (world.R, 1)))
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
