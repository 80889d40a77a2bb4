"""Parameters that every rank of a worker holds as a whole, beside those that are sharded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from hpc_localsgd.attach.grid import RankGrid
from hpc_localsgd.attach.storage import Group


class ReplicatedCheck:
    """Check of parameters that the ranks of one worker should hold alike.

    Torch takes care of what it shards. Where the gradients of a whole parameter beside it
    (`ignored_params`) are not averaged by the loop, the ranks of a worker drift apart in it.
    """

    def __init__(self, groups: Sequence[Group], grid: RankGrid) -> None:
        self._groups = [group for group in groups if group.copies > 1]
        self._grid = grid

    def look(self) -> None:
        """Warn on rank 0 where they have drifted, after the first round. A collective, not billed.

        Only once: later the parameters are equal, or the user has been warned.
        """
        groups, self._groups = self._groups, []
        if not groups:
            return
        digest = sum(group.fingerprint() for group in groups) % 2**52
        rows = self._grid.everyone.gather(np.array([[digest]]))[:, 0]
        workers = self._grid.workers
        drifted = any(np.ptp(rows[workers == k]) for k in set(workers))
        if drifted and self._grid.everyone.rank == 0:
            names = [name for group in groups for name in group.names]
            warnings.warn(
                f"the ranks of a worker hold different values of {', '.join(names[:8])}, which "
                "is not sharded: average such gradients over them before optimizer.step() "
                'by all_reduce(p.grad, group=mesh["shard"].get_group()), which fully_shard does '
                "not do for ignored_params",
                stacklevel=2,
            )
