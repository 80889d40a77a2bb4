"""A Slurm of one's own, and what tests ask of it: jobs, their states, and their processes."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from launching import until
from slurm_daemons import Daemons, search_path, title_of, variables_of

C = TypeVar("C", bound="Cluster")

NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge libpmix-dev"
SETTLED_S = 3.0  # a requeued step has the number of the old one, whose daemon takes a while to go
ASKED_EVERY_S = 0.5  # each time takes 20 ms of a processor, and tests wait for many jobs
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def missing() -> list[str]:
    """The programs of Slurm that this machine has not."""
    return [name for name in NEEDED if shutil.which(name, path=search_path()) is None]


def need() -> None:
    """Skip the test where there is no Slurm."""
    if absent := missing():
        pytest.skip(f"no Slurm here ({', '.join(absent)} missing): {INSTALL}")


@contextmanager
def running(make: Callable[[Path], C]) -> Iterator[C]:
    """Start a cluster in a folder of its own; nothing of it is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path has 108 bytes
    made = make(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        assert not made.strays(), "processes of the cluster are left"
        shutil.rmtree(folder)


class Cluster(Daemons):
    """Jobs of a Slurm: submitted, waited for, put back and started again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._queue: dict[str, tuple[str, int]] = {}
        self._asked, self._lock = 0.0, threading.Lock()

    def sbatch(self, *words: str, **variables: str) -> str:
        """Submit a job; its number."""
        return self.command("sbatch", "--parsable", *words, **variables)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        said = self.command("scontrol", "--oneliner", "show", "job", number)
        return dict(word.partition("=")[::2] for word in said.split() if "=" in word)

    def limit(self, number: str, more_min: int) -> None:
        """Give a job that runs a time limit, of so many whole minutes from this one on."""
        said = self.job(number)["RunTime"]  # 00:01:30
        hours, minutes, _ = map(int, said.rpartition("-")[2].split(":"))
        allowed = 60 * hours + minutes + more_min
        self.command("scontrol", "update", f"JobId={number}", f"TimeLimit={allowed}")

    def wait(self, number: str, timeout_s: float = 240) -> str:
        """Until a job is over, and no process of it is alive; the state it ended in."""
        until(lambda: self.state(number)[0] in OVER, timeout_s, f"job {number} is over")
        until(lambda: not self._processes_of(number), 60, f"no process of job {number} is alive")
        return self.state(number)[0]

    def wait_for_requeue(self, number: str, times: int = 1, timeout_s: float = 240) -> None:
        """Until a job is back in the queue for the so manyth time."""

        def is_back() -> bool:
            state, restarts = self.state(number)
            assert state not in OVER, f"job {number} is over: {state}"
            return (state, restarts) == ("PENDING", times)

        until(is_back, timeout_s, f"job {number} is back in the queue")

    def state(self, number: str) -> tuple[str, int]:
        """The state of a job, and how often it was started again.

        It is COMPLETING while its processes are being ended. Of an array there are only the tasks,
        as 12_1.
        """
        with self._lock:
            if number not in self._queue or time.monotonic() > self._asked + ASKED_EVERY_S:
                until(self._answered, 60, "squeue answers")  # a busy Slurm may not, now and then
            return self._queue[number]

    def _answered(self) -> bool:
        """Ask for all jobs; whether there was an answer."""
        form = "JobArrayID:30,State:30,RestartCnt:30"
        said = self.command("squeue", "-h", "-r", "-t", "all", "-O", form, check=False)
        rows = [line.split() for line in said.splitlines()]
        if rows:
            self._queue = {job: (state, int(times)) for job, state, times in rows}
            self._asked = time.monotonic()
        return bool(rows)

    def start_requeued(self, *numbers: str, times: int = 1) -> None:
        """Start jobs requeued the so manyth time now; Slurm itself would wait for two minutes."""
        for number in numbers:
            self.wait_for_requeue(number, times)
            until(
                lambda n=number: not self._steps_of(n), 30, f"the daemons of job {number} are gone"
            )
        time.sleep(SETTLED_S)
        for number in numbers:
            self.command("scontrol", "update", f"JobId={number}", "StartTime=now")

    def start_until_over(self, number: str) -> None:
        """Start a job each time it is back in the queue, until it is over."""

        def is_back_or_over(times: int) -> bool:
            state, restarts = self.state(number)
            return state in OVER or (state, restarts) == ("PENDING", times)

        for times in itertools.count(1):
            until(lambda n=times: is_back_or_over(n), 240, f"job {number} is back or over")
            if self.state(number)[0] in OVER:
                return
            self.start_requeued(number, times=times)

    def ranks(self, word: str) -> list[int]:
        """The Python processes of jobs with `word` on their command line."""
        lines = {pid: title_of(pid).split(b"\0") for pid in self.strays()}
        return [p for p, line in lines.items() if b"-m" in line[1:2] and word.encode() in line]

    def _processes_of(self, number: str) -> list[int]:
        """Living processes that a job, or a task `12_1` of an array, started."""
        array, _, task = number.partition("_")
        names = ["SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"] if task else ["SLURM_JOB_ID"]
        marks = {f"{name}={n}".encode() for name, n in zip(names, (array, task), strict=False)}
        return [pid for pid in self.strays() if marks <= variables_of(pid)]

    def _steps_of(self, number: str) -> list[int]:
        begin = f"slurmstepd: [{number}.".encode()
        return [pid for pid in self.strays() if title_of(pid).startswith(begin)]
