"""Write shards while training continues."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from hpc_localsgd.run.stderr import say
from hpc_localsgd.trajectory.diskspace import mend, why

if TYPE_CHECKING:
    from hpc_localsgd.run.checkpoint.folder import Checkpoints
    from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint


class Background:
    """Writer of one shard at a time in a thread.

    A disk that cannot keep up with the cadence slows the run down: if each rank left out other
    shards, no checkpoint might ever be complete.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self.written = True  # what was handed over last
        self.refused: OSError | RuntimeError | None = None  # why, if it was not

    def hand(self, place: RankCheckpoint) -> None:
        """Begin to write a place, once the one before it is written."""
        self.finish()
        self._thread = threading.Thread(target=self._work, args=(place,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for what is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def write(self, place: RankCheckpoint) -> bool:
        """Write a place now; report a failure, but continue: training matters more."""
        try:
            self.checkpoints.save(place)
        except (OSError, RuntimeError) as error:
            self.refused = error
            say(
                f"rank {self.checkpoints.world.rank} on {socket.gethostname()}: no checkpoint of "
                f"step {place.t} in {self.checkpoints.folder}: {why(error)}: {mend(error)}; "
                "training continues, and the checkpoints before it are as they were"
            )
            return False
        return True

    def _work(self, place: RankCheckpoint) -> None:
        self.written = self.write(place)
        if self.written:
            self.checkpoints.tidy()
