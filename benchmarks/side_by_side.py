"""Contestants timed side by side in one run: interleaved, warm-up dropped, medians with spread.

Each contestant is a job of its own (a launcher and its ranks), so that none pays for another's
threads. All jobs are started at once and take turns; those whose turn it is not are stopped
(SIGSTOP). A machine that slows down then slows all of them, and what is reported are ratios of
turns taken one after the other.

    the script                 the ranks of a contestant
    ----------                 -------------------------
    jobs = start(...)          gate = Gate()
    rounds = take_turns(...)   while gate.step(): one step
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medians import quartiles, sureness, within
from reporting import ROOT

if TYPE_CHECKING:
    import torch

_ADDRESS = "SIDE_BY_SIDE"
PATIENCE_S = 120  # for a contestant to start, or to take its turn
_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HOROVOD_", "SLURM_")
MPIRUN = ("mpirun", "--bind-to", "none", "--oversubscribe")


def device() -> torch.device:
    """Return what contestants compute on: SIDE_BY_SIDE_DEVICE, or the processor."""
    import torch

    return torch.device(os.environ.get("SIDE_BY_SIDE_DEVICE", "cpu"))


def _finish_gpu() -> None:
    """Wait for the GPU: the host runs ahead of it."""
    if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_initialized():
        torch.cuda.synchronize()


class Gate:
    """A rank's side: call `step()` before every step; it returns False when it is time to end."""

    def __init__(self) -> None:
        self._connection = Client(os.environ[_ADDRESS])
        self._connection.send(os.getpid())
        self._left, self._began = 0, 0.0

    def step(self) -> bool:
        """Count a step; at the end of a turn report its seconds and wait for the next turn."""
        if self._left == 0:
            if self._began:
                _finish_gpu()
                self._connection.send(time.perf_counter() - self._began)
            self._left = self._connection.recv()
            if self._left == 0:
                return False
            self._began = time.perf_counter()
        self._left -= 1
        return True

    def tell(self, value: Any) -> None:
        """Report something else than seconds, at the end."""
        self._connection.send(value)


@dataclass
class Job:
    """A contestant: its launcher and the connections to its ranks."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ranks: list[Connection] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)

    def turn(self, steps: int) -> float:
        """Return the seconds a step took, of the slowest rank."""
        self.signal(signal.SIGCONT)
        for rank in self.ranks:
            rank.send(steps)
        seconds = max(self.hear(rank) for rank in self.ranks)
        self.signal(signal.SIGSTOP)
        return seconds / steps

    def hear(self, rank: Connection) -> Any:
        """Return what a rank reports.

        Raises:
            RuntimeError: Nothing in time; shows the end of the contestant's output.
        """
        if not rank.poll(PATIENCE_S):
            raise RuntimeError(f"{self.name} does not answer:\n{self.log.read_text()[-2000:]}")
        return rank.recv()

    def signal(self, number: int) -> None:
        """Stop or continue the ranks, those that are still there."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """Let the ranks finish; end them if they do not."""
        self.signal(signal.SIGCONT)
        for rank in self.ranks:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has ended by itself
                rank.send(0)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextmanager
def started(
    contestants: Mapping[str, Sequence[str]],
    ranks: int = 2,
    environ: Mapping[str, Mapping[str, str]] | None = None,
    launcher: Sequence[str] = MPIRUN,
) -> Iterator[list[Job]]:
    """Start one job for each contestant, one after the other, and end them all.

    Args:
        contestants: Name -> arguments for Python.
        ranks: Processes of each job.
        environ: Name -> what its environment has besides.
        launcher: The command in front.

    Yields:
        The jobs, all stopped, in order.
    """
    jobs: list[Job] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            for name, arguments in contestants.items():
                extra = (environ or {}).get(name, {})
                jobs.append(_start(name, arguments, ranks, extra, launcher, folder))
            yield jobs
            for job in jobs:
                job.end()
        finally:
            for job in jobs:
                if job.process.poll() is None:
                    job.signal(signal.SIGCONT)
                    job.process.terminate()
                    job.process.wait(PATIENCE_S)


def _start(
    name: str,
    arguments: Sequence[str],
    ranks: int,
    extra: Mapping[str, str],
    launcher: Sequence[str],
    folder: Path,
) -> Job:
    address, log = str(folder / name.replace("/", "-")), folder / f"{name.replace('/', '-')}.log"
    environ = {k: v for k, v in os.environ.items() if not _of_a_launcher(k)}
    environ |= {
        _ADDRESS: address,
        "OMP_NUM_THREADS": "1",
        # Or glibc gives memory back after some steps and not after others, by luck.
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **extra,
    }
    command = [*launcher, "-np", str(ranks), sys.executable, *arguments]
    with Listener(address) as listener, log.open("wb") as output:
        listener._listener._socket.settimeout(PATIENCE_S)  # type: ignore[attr-defined]
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output)
        job = Job(name, process, log)
        for _ in range(ranks):
            try:
                rank = listener.accept()
            except TimeoutError:
                process.terminate()
                raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}") from None
            job.ranks.append(rank)
            job.pids.append(job.hear(rank))
    return job


def _of_a_launcher(name: str) -> bool:
    """Tell whether an outer launcher set a variable; settings that a person made stay."""
    return name.startswith(_OF_LAUNCHERS) and "_MCA_" not in name


def take_turns(
    jobs: Sequence[Job], steps: Mapping[str, int], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Return the seconds per step of every contestant and round, warm-up rounds dropped.

    Args:
        jobs: The contestants.
        steps: Steps of a turn, by name.
        rounds: Turns of each that count.
        warm_up: Turns of each that do not.
    """
    times: dict[str, list[float]] = {job.name: [] for job in jobs}
    for r in range(warm_up + rounds):
        for job in jobs if r % 2 else reversed(jobs):
            seconds = job.turn(steps[job.name])
            if r >= warm_up:
                times[job.name].append(seconds)
    return times


def hear_end(job: Job) -> list[Any]:
    """End a job whose ranks have something to tell at their end, and return it."""
    job.signal(signal.SIGCONT)
    for rank in job.ranks:
        rank.send(0)
    return [job.hear(rank) for rank in job.ranks]


@dataclass(frozen=True)
class Figure:
    """A contestant's time and its ratio to another's, each a median with its quartiles.

    `ratio_within` is where the median of the ratios lies with 95 % confidence, whatever their
    distribution: between two of the ratios, see `medians`; of so many turns.
    """

    ms: float
    ms_quartiles: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    ratio_within: tuple[float, float]
    turns: int


def figures(times: Mapping[str, Sequence[float]], against: str) -> dict[str, Figure]:
    """Return medians of the times, and of the ratios to `against` in the same round."""
    found = {}
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, times[against], strict=True)]
        ms = [1000 * t for t in mine]
        found[name] = Figure(
            statistics.median(ms),
            quartiles(ms),
            statistics.median(ratios),
            quartiles(ratios),
            within(ratios),
            len(ratios),
        )
    return found


def table(found: Mapping[str, Figure], against: str) -> str:
    """Return the figures as a Markdown table."""
    sure = sureness(found[against].turns)
    lines = [f"| | ms | quartiles | x {against} | quartiles | {sure} |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name, f in found.items():
        lines.append(
            f"| {name} | {f.ms:.2f} | {f.ms_quartiles[0]:.2f} - {f.ms_quartiles[1]:.2f} "
            f"| {f.ratio:.3f} | {f.ratio_quartiles[0]:.3f} - {f.ratio_quartiles[1]:.3f} "
            f"| {f.ratio_within[0]:.3f} - {f.ratio_within[1]:.3f} |"
        )
    return "\n".join(lines)


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
