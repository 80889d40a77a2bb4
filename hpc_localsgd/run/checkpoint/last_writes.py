"""What a rank writes before its process ends, and how long it waits for the other ranks'."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.run.checkpoint.background import Background
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import GONE, REGROUPED, StopListener, resume_line, starts_again
from hpc_localsgd.trajectory.diskspace import mend

if TYPE_CHECKING:
    from hpc_localsgd.run.recorder import Recorder

OTHERS_S = 1.5  # for the other ranks to write a shard that fits the one just written
LEFT_AFTER_S = 8.0  # when asked to stop, if the disk is fast enough
CLOSE_HURRIED_S = 3.0  # for the record, before the shard, when a SIGKILL may follow
ASK = "python -m hpc_localsgd summary --status"  # answers "stopped"
TOGETHER_S = 0.3  # all ranks see that all have written before the first one ends


class LastWrites:
    """The last shards of one rank, in its own folder or, where that is gone, on its host.

    Attributes:
        within_s: Seconds in which all should be done, if the disk is fast enough.
        kept_in: Folder of the shards.
    """

    def __init__(
        self,
        stopping: StopListener,
        background: Background,
        clock: Callable[[], float],
        at_the_end: Callable[[], None],
    ) -> None:
        """Write nothing yet.

        Args:
            stopping: Who asked for the end, when, and how much time there is.
            background: Writes the shards.
            clock: Seconds.
            at_the_end: Called when this rank has written and waited.
        """
        self._stopping, self._clock = stopping, clock
        self._background, self._at_the_end = background, at_the_end
        self._until, self._rescued = 0.0, False
        self.within_s, self.kept_in = LEFT_AFTER_S, background.checkpoints.folder

    def keep(self, record: Recorder, places: Sequence[RankCheckpoint]) -> list[int]:
        """Write places, newest first, until one fits the other ranks'; return those written.

        Bounded: ranks that are gone are not waited for, and others hardly take more than twice as
        long for a shard as this one, whose end would end them.
        """
        hurried = self._stopping.hurried
        until = self._until = self._clock() + self.within_s
        if not record.close("stopped", CLOSE_HURRIED_S if hurried else LEFT_AFTER_S):
            say("what was recorded since the last flush is lost; the record has a gap there")
        written: list[int] = []
        ordered = newest_of_each(places)
        for place in ordered:
            began_s = self._clock()
            if not self._background.write(place):
                continue
            written.append(place.after)
            now = self._clock()
            took_s = now - began_s
            until = self._until = max(until, now + 2 * took_s)
            patience_s = 0.0 if hurried else max(OTHERS_S, took_s)
            if self._all_have(written, min(until, now + patience_s)):
                break
        if not written and self._stopping.status == GONE:
            self._rescue(ordered)
        return written

    def wait(self, written: list[int]) -> bool:
        """Wait for the other ranks' shards; return whether this rank has kept its place."""
        self._all_have(written, self._until)
        self._at_the_end()
        if self._background.checkpoints.world.n > 1:
            time.sleep(TOGETHER_S)  # the last thing: the first to end ends the others
        return bool(written) or self._rescued

    def _rescue(self, places: Sequence[RankCheckpoint]) -> None:
        """Write the newest of these into this host's folder for temporary files."""
        checkpoints = self._background.checkpoints
        out = checkpoints.folder.parent
        self.kept_in = Path(tempfile.mkdtemp(prefix=f"{out.name}-")) / "checkpoints"
        elsewhere = Background(checkpoints.in_folder(self.kept_in, checkpoints))
        self._rescued = any(elsewhere.write(place) for place in places)
        if self._rescued:
            say(
                f"rank {checkpoints.world.rank} on {socket.gethostname()}: the parameters are in "
                f"{self.kept_in}"
            )

    def _all_have(self, written: list[int], until: float) -> bool:
        """Wait until all ranks have written one of these since they were asked to stop."""
        since_ns, checkpoints = self._stopping.since_ns, self._background.checkpoints
        # So that few ranks see it at one moment; and many do not ask the file system all the time.
        pause_s = 0.01 if checkpoints.world.n <= 16 else 0.05
        while not any(checkpoints.is_whole(after, since_ns) for after in written):
            if self._clock() >= until or not written:
                return False
            time.sleep(pause_s)
        return True

    def farewell(self, where: str) -> str:
        """Return the message of a run that stopped, with the command to resume it."""
        out = self._background.checkpoints.folder.parent
        if self._stopping.status == GONE:
            return (
                f"stopped {where}: {self._stopping.asked}. The parameters are in "
                f"{self.kept_in}: put the folder back as it was, these in it, and resume with "
                f"{resume_line(out)}"
            )
        if self._stopping.status == REGROUPED:
            return f"stopped {where}: an agent of torchrun comes or goes, and they start it again"
        told = f"; not done, though torchrun is told 0: {ASK} {out}" if starts_again() else ""
        return f"stopped on {self._stopping.asked} {where}: resume with {resume_line(out)}{told}"

    def to_mend(self) -> str:
        """Return what a user must do before the run can resume."""
        return (
            f"{mend(self._background.refused)}, then start it again with --resume auto; it "
            "continues from the last checkpoint"
        )


def newest_of_each(places: Sequence[RankCheckpoint]) -> list[RankCheckpoint]:
    """Return the places in the order in which they are worth writing: one for each `after`."""
    best: dict[int, RankCheckpoint] = {}
    for place in sorted(places, key=lambda place: place.t):
        best[place.after] = place
    return [best[after] for after in sorted(best, reverse=True)]
