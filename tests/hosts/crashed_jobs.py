"""The jobs that are on a host that crashes, and what became of them."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from launching import Job
from slurm_jobs import Submitted

from hpc_localsgd.run.checkpoint.listing import last_complete

BOUND_S = 150  # 6 s, 11 s for signs of life, 8 s for the shards, and a slow machine
NAMED = re.compile(r"These no longer report: rank 1 \(step \d+ on b\)")


@dataclass
class Crash:
    """What became of the jobs that were on the host that crashed.

    Attributes:
        folder: Has the folders of the runs, by the names of their launchers.
        launched: What the launchers are on host a.
        began: When the host crashed, by the monotonic clock.
        said: What the ranks of a launcher said until they had ended.
        seconds: From the crash until they had.
        submitted: The jobs in Slurm.
    """

    folder: Path
    launched: dict[str, Job] = field(default_factory=dict)
    began: float = 0.0
    said: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    submitted: dict[str, Submitted] = field(default_factory=dict)

    def out(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def texts(self) -> list[str]:
        """What the jobs of launchers have said so far."""
        return [job.stderr.read_text(errors="replace") for job in self.launched.values()]


def has_checkpoint(out: Path, of: int | None = None) -> bool:
    """Whether a run can be resumed; of so many ranks, if that is asked."""
    found = last_complete(out)
    return found is not None and of in (None, found[1])


def ended(it: Crash, waiting: dict[str, Job]) -> bool:
    """Note which jobs have no rank any more; whether that is so of all."""
    for name, job in list(waiting.items()):
        if not job.ranks():
            it.seconds[name] = time.monotonic() - it.began
            del waiting[name]
    return not waiting


def end_as_told(job: Job) -> str:
    """What a job said. A launcher that waits for the host is ended as its ranks said."""
    told = re.search(r"`kill -9 (\d+)` on a", job.stderr.read_text())
    if told and int(told[1]) == job.process.pid:
        os.kill(int(told[1]), signal.SIGKILL)
    return job.wait(BOUND_S).text


def is_back(job: Submitted) -> bool:
    """Whether a job waits in the queue for its second start."""
    known = job.cluster.job(job.number)
    assert known["JobState"] not in ("COMPLETED", "FAILED"), job.said.read_text()[-3000:]
    return (known["JobState"], known["Restarts"]) == ("PENDING", "1")
