"""The same algorithms in a user's own loop: `hpc_localsgd.attach(model, optimizer, ...)`.

    sync = hpc_localsgd.attach(model, optimizer, schedule=post_local(switch=30_000, every=16))
    for x, y in loader:
        optimizer.zero_grad(); loss_fn(model(x), y).backward(); optimizer.step()
        sync.step()                      # communicates only when a round ends
    with sync.averaged():                # the mean model, then this worker's again
        evaluate(model)
    sync.finish()                        # every rank ends with the mean model

The package has the name of the function: importing it puts the package into `hpc_localsgd.attach`,
so the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType

from hpc_localsgd.attach.comm_stats import CommStats
from hpc_localsgd.attach.entry import attach
from hpc_localsgd.attach.sync import Sync

__all__ = ["CommStats", "Sync", "attach"]


class _Callable(ModuleType):
    """A module that is its function too."""

    __call__ = staticmethod(attach)


sys.modules[__name__].__class__ = _Callable
