"""The laboratory: a network that exists while a `with` block runs, and commands launched in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.netlab import cables, launchers
from benchmarks.netlab.hosts import Hosts, do
from benchmarks.netlab.missing import delays_by, missing
from benchmarks.netlab.network import Link, Network, NetworkError

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


class LabError(RuntimeError):
    """A command in the network failed or took too long; has the end of what it said."""


@dataclass(frozen=True)
class Way:
    """What a program meets on the way from one host to another.

    Attributes:
        source: Where it sends.
        target: Where it arrives.
        wanted: As described.
        bytes_per_s: Of one TCP connection.
        trip_s: There and back, of one byte.
    """

    source: str
    target: str
    wanted: Link
    bytes_per_s: float
    trip_s: float

    @property
    def as_wanted(self) -> bool:
        """Whether it is as fast as described, less headers and a tenth."""
        return not self.wanted.bits_per_s or self.bytes_per_s > 0.85 * self.wanted.bytes_per_s


class Lab:
    """A network, made when the block begins and gone when it ends, however it does.

    Attributes:
        network: As described.
        delays_by: `netem` (the kernel), `relay` (a process, which costs a core), `nothing` where
            no cable has a delay.
    """

    def __init__(self, network: Network) -> None:
        """Make nothing yet.

        Raises:
            NetworkError: This machine cannot; says what is missing.
        """
        if why := missing(network):
            raise NetworkError(why)
        self.network = network
        self.delays_by = delays_by(network)
        self._hosts = Hosts(network, self.delays_by)

    def __enter__(self) -> Lab:
        self._hosts.begin()
        try:
            for name, factor in self.network.slow.items():
                brake = [sys.executable, str(HERE / "brake.py"), str(factor)]
                self._hosts.hold([*self._hosts.on(name), *brake])
        except BaseException:
            self._hosts.end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._hosts.end()

    def on(self, host: str) -> list[str]:
        """Return what to put before a command that is to run on a host."""
        return self._hosts.on(host)

    def run(
        self,
        command: Sequence[str],
        launcher: str = "mpirun",
        *,
        timeout_s: float | None = None,
        environ: Mapping[str, str] | None = None,
        capture: bool = True,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on every rank of the network, to its end.

        Args:
            command: Of a rank; one that begins with an option or a `.py` file is Python's.
            launcher: One of `launchers.LAUNCHERS`.
            timeout_s: After which all of it is ended.
            environ: Variables besides.
            capture: Keep what it says, both streams in one, instead of showing it.
            check: Raise where it fails.

        Raises:
            LabError: It failed, with `check`; or it took too long.
        """
        if command[0].startswith("-") or command[0].endswith(".py"):
            command = [sys.executable, *command]
        env = launchers.environ(os.environ, str(ROOT), str(Path(sys.executable).parent))
        out, err = (subprocess.PIPE, subprocess.STDOUT) if capture else (None, None)
        jobs = [
            subprocess.Popen(
                [*self.on(host), *words],
                env={**env, **(environ or {})},
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            for host, words in launchers.commands(self.network, launcher, command)
        ]
        try:
            said, status = _ended(jobs, timeout_s)
        finally:
            self._quiet()
            for job in jobs:
                job.wait()
        if status is None:
            raise LabError(
                f"still running after {timeout_s} s: {' '.join(command)}\n{said[-3000:]}"
            )
        if check and status:
            raise LabError(f"exit status {status}: {' '.join(command)}\n{said[-3000:]}")
        return subprocess.CompletedProcess(list(command), status, said)

    def measured(self) -> list[Way]:
        """Measure the way from every host to the next one, one after the other."""
        n = self.network.hosts
        return [self._way(i, (i + 1) % n) for i in range(n)] if n > 1 else []

    def _way(self, i: int, j: int) -> Way:
        source, target = self.network.names[i], self.network.names[j]
        probe = [sys.executable, str(HERE / "probe.py")]
        listener = subprocess.Popen(
            [*self.on(target), *probe, "listen"], stdout=subprocess.PIPE, text=True
        )
        assert listener.stdout is not None
        with listener:
            listener.stdout.readline()
            try:
                got = json.loads(do([*self.on(source), *probe, cables.address(j)]))
            except BaseException:
                listener.kill()
                raise
        wanted = self.network.between(i, j)
        return Way(source, target, wanted, got["bytes_per_s"], got["trip_s"])

    def _quiet(self) -> None:
        """End whatever a launch has left in the hosts."""
        for pid in self._hosts.strays():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _ended(
    jobs: Sequence[subprocess.Popen[str]], timeout_s: float | None
) -> tuple[str, int | None]:
    """Wait for all; return what they said and the first status that is not 0, None if too late."""
    end = time.monotonic() + timeout_s if timeout_s is not None else None
    said, statuses = [], []
    for job in jobs:
        left = max(0.0, end - time.monotonic()) if end is not None else None
        try:
            said.append(job.communicate(timeout=left)[0] or "")
        except subprocess.TimeoutExpired as late:
            heard = late.stdout or b""
            said.append(heard.decode(errors="replace") if isinstance(heard, bytes) else heard)
            return "".join(said), None
        statuses.append(job.returncode)
    return "".join(said), next(filter(None, statuses), 0)
