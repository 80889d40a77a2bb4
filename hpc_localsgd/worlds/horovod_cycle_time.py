"""The time between two cycles of Horovod's background thread."""

from __future__ import annotations

import os
import sys

SHORT_MS = "0.1"


def shorten_cycles() -> None:
    """Let Horovod's thread look every 0.1 ms, if it sleeps while nothing is under way.

    An average that just misses a look waits for the next: 1 ms as Horovod is released, which is
    much of a small model's step. Horovod reads it in `hvd.init()`, which a script calls before
    `attach`: so it is set when the package is imported after `horovod.torch`, as in alphabetical
    order, else when a world is made. HOROVOD_CYCLE_TIME as given is left alone, and so is a Horovod
    whose thread would be awake ten times as often for it.
    """
    operations = sys.modules.get("horovod.torch.mpi_ops")
    if hasattr(getattr(operations, "mpi_lib", None), "rests_when_idle"):
        os.environ.setdefault("HOROVOD_CYCLE_TIME", SHORT_MS)
