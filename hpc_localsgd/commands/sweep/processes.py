"""A run of a sweep as a process: under a launcher, or forked off one that has torch loaded already.

Loading torch and the package takes seconds, which for small runs is most of their time. A fork
server, in which nothing but imports has happened, does it once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

PRELOADED = ["hpc_localsgd.commands.train", "hpc_localsgd.commands.assembly.job"]


class Process(Protocol):
    """What is common to both ways."""

    @property
    def pid(self) -> int:
        """Its number, which is that of its group of processes too."""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it is in progress."""

    def wait(self) -> object:
        """Wait for its end."""


def launched(launch: Sequence[str], words: Sequence[str], log: Path) -> Process:
    """Start a run under a launcher.

    Args:
        launch: The launcher's words, as ``mpirun -np 2``.
        words: Options of train.
        log: Where everything goes that it says; added to what is there.

    Raises:
        OSError: There is no such launcher.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launch, sys.executable, "-m", "hpc_localsgd.train", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is the sweep's, which hands it on once
        )


class Forked:
    """A run forked off the server."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        """Start it.

        Args:
            words: Options of train.
            log: Where everything goes that it says.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_train, args=(list(words), str(log)))
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process, see `Process`."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, see `Process.poll`."""
        return self._process.exitcode

    def wait(self) -> None:
        """Wait for the end, see `Process.wait`."""
        self._process.join()


def _train(words: list[str], log: str) -> None:
    """Be the run: its own group of processes, its own log, the exit status of train."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, descriptor in ((0, nothing), (1, output), (2, output)):
        os.dup2(descriptor, number)
    # The server may have been started where requests to stop were blocked, as loaders are.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    from hpc_localsgd.commands.train import main

    sys.exit(main(words))


def tell(process: Process, number: int, all_of_it: bool = False) -> None:
    """Send a signal to a run, or its launcher; or to all its processes.

    Args:
        process: Which.
        number: Of the signal.
        all_of_it: Whether to all.
    """
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            (os.killpg if all_of_it else os.kill)(process.pid, number)


def divide_cores(environ: MutableMapping[str, str], jobs: int) -> None:
    """Give each of several runs its share of this machine's cores, if nobody has set it.

    Args:
        environ: Changed in place; what is started from now on has it.
        jobs: How many runs share the cores.
    """
    cores = len(os.sched_getaffinity(0))
    environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))


def started_by_launcher(environ: Mapping[str, str]) -> str:
    """Name the launcher of several ranks that started this process; "" if none did.

    Args:
        environ: Of this process.
    """
    from hpc_localsgd.engine.launch import detect

    launch = detect(environ)
    alone = not launch.launched or (launch.size or 1) == 1
    return "" if alone else launch.launcher
