"""Hosts on one machine: each with a network, a name, mounts and an /etc/hosts of its own.

A host is a process in new namespaces; they hang on one bridge, which is in a namespace too. All see
the files of this machine, as hosts see a shared folder; what one alone shall have is mounted there.
Nothing outlives the process that made them: a host waits for the end of its standard input.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launching import until

from benchmarks.netlab.commands import write_commands

PROGRAMS = ("ip", "nsenter", "unshare")
INSTALL = "apt-get install --no-install-recommends iproute2 util-linux"
BORN = """
mount --bind "$1/kernel-$2" /proc/sys/kernel/random/boot_id &&
mount --bind "$1/etc-hosts-$2" /etc/hosts &&
mount -t tmpfs tmpfs "$1/own" && mount -t tmpfs tmpfs /dev/shm &&
hostname "$2" && ip link set lo up && echo ready && exec cat
"""
# Of a port where nobody listens: who is told so has been there.
REACHES = """
import errno, socket, sys
with socket.socket() as asking:
    asking.settimeout(2)
    sys.exit(asking.connect_ex((sys.argv[1], 9)) != errno.ECONNREFUSED)
"""


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        name: What it calls itself.
        address: At which the others reach it.
        process: In its namespaces.
        folder: What the harness keeps.
    """

    name: str
    address: str
    process: subprocess.Popen[str]
    folder: Path

    @property
    def on(self) -> list[str]:
        """What to put before a command that is to run there."""
        return [str(self.folder / "bin" / "on"), self.name]

    @contextmanager
    def own(self, path: Path, options: str = "size=64m") -> Iterator[None]:
        """Mount an empty folder of its own at a path, which hides the shared one there."""
        with self._mounted("-t", "tmpfs", "-o", options, "tmpfs", str(path), at=path):
            yield

    @contextmanager
    def other(self, path: Path, instead: Path) -> Iterator[None]:
        """Let it see another folder at a path."""
        with self._mounted("--bind", str(instead), str(path), at=path):
            yield

    @contextmanager
    def read_only(self, path: Path) -> Iterator[None]:
        """Let it read at a path, and not write."""
        with self.other(path, path):
            self.do("mount", "-o", "remount,bind,ro", str(path))
            yield

    @contextmanager
    def names(self, *lines: str) -> Iterator[None]:
        """Put lines before those of its /etc/hosts."""
        file = self.folder / f"etc-hosts-{self.name}"
        before = file.read_text()
        file.write_text("".join(f"{line}\n" for line in lines) + before)
        try:
            yield
        finally:
            file.write_text(before)

    @contextmanager
    def bridge(self, name: str = "docker0", address: str = "172.17.0.1/16") -> Iterator[None]:
        """Give it a bridge for guests, as Docker makes on each host, with the same address."""
        self.do("ip", "link", "add", name, "type", "bridge")
        try:
            self.do("ip", "addr", "add", address, "dev", name)
            self.do("ip", "link", "set", name, "up")
            yield
        finally:
            self.do("ip", "link", "del", name)

    def reaches(self, other: Host) -> bool:
        """Whether the network carries something from here to another host and back."""
        words = [*self.on, sys.executable, "-ISc", REACHES, other.address]
        return subprocess.run(words, check=False).returncode == 0

    def do(self, *command: str) -> None:
        """Run a command there.

        Raises:
            OSError: It failed.
        """
        _do(*self.on, *command)

    @contextmanager
    def _mounted(self, *words: str, at: Path) -> Iterator[None]:
        self.do("mount", *words)
        try:
            yield
        finally:
            self.do("umount", "-l", str(at))


class Hosts:
    """Several of them, by their names; a context manager."""

    def __init__(self, *names: str) -> None:
        """Make nothing yet.

        Args:
            names: Theirs.
        """
        self._names, self._hosts = names, dict[str, Host]()
        self._cut = set[str]()
        self.srun: Callable[[Mapping[str, int]], list[str]]  # set where they have a Slurm

    def __enter__(self) -> Hosts:
        with ExitStack() as stack:
            stack.callback(self._end)
            self._folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))  # sockets are in it
            self._switch = _begun("unshare", "--net", "sh", "-c", "echo ready && exec cat")
            self._write()
            _do(*self._at_switch(), "ip", "link", "add", "br0", "type", "bridge")
            _do(*self._at_switch(), "ip", "link", "set", "br0", "up")
            for i, name in enumerate(self._names):
                self._bear(name, _address(i))
            for name in self._names:
                self._until_reached(name)
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Take the cable of a host out of the bridge, and put it back."""
        self._link(name, "down")
        self._cut.add(name)
        try:
            yield
        finally:
            self._link(name, "up")
            self._cut.remove(name)
            self._until_reached(name)

    def crash(self, name: str) -> None:
        """Cut the power of a host: its processes are gone, and nobody is told."""
        (self._folder / f"down-{name}").touch()
        self._link(name, "down")
        for pid in inside(self[name].process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def boot(self, name: str) -> None:
        """Let a host that crashed come back, with nothing of what ran there."""
        (self._folder / f"kernel-{name}").write_text(f"{uuid.uuid4()}\n")
        self[name].do("sh", "-c", "rm -rf /dev/shm/* $TMPDIR/*")
        self._link(name, "up")
        (self._folder / f"down-{name}").unlink()
        self._until_reached(name)

    def _link(self, name: str, state: str) -> None:
        _do(*self._at_switch(), "ip", "link", "set", f"to-{name}", state)

    def _until_reached(self, name: str) -> None:
        """Wait for a cable to carry, a second or so: until then it is said that there is no route.

        A launcher that begins in that time may give up, or wait for ever.
        """
        for other in self._hosts.values():
            down = (self._folder / f"down-{other.name}").exists()
            if other.name not in {name, *self._cut} and not down:
                until(lambda o=other: o.reaches(self[name]), 30, f"{other.name} reaches {name}")

    def _at_switch(self) -> list[str]:
        return ["nsenter", "-t", str(self._switch.pid), "-n"]

    def _write(self) -> None:
        known = "".join(f"{_address(i)} {name}\n" for i, name in enumerate(self._names))
        (self._folder / "own").mkdir()
        write_commands(self._folder)
        for name in self._names:
            (self._folder / f"etc-hosts-{name}").write_text(f"127.0.0.1 localhost\n{known}")
            (self._folder / f"kernel-{name}").write_text(f"{uuid.uuid4()}\n")

    def _bear(self, name: str, address: str) -> None:
        new = ("unshare", "--net", "--uts", "--mount", "sh", "-c", BORN, "-")
        process = _begun(*new, str(self._folder), name)
        (self._folder / f"pid-{name}").write_text(str(process.pid))
        host = self._hosts[name] = Host(name, address, process, self._folder)
        cable = ("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0")
        _do(*self._at_switch(), *cable, "netns", str(process.pid))
        _do(*self._at_switch(), "ip", "link", "set", f"to-{name}", "master", "br0", "up")
        host.do("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        host.do("ip", "link", "set", "eth0", "up")

    def _end(self) -> None:
        """Let all of it go, after a start that failed too."""
        processes = [host.process for host in self._hosts.values()]
        for process in processes:
            for pid in inside(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in [*processes, *filter(None, [getattr(self, "_switch", None)])]:
            process.communicate()
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def inside(pid: int) -> list[int]:
    """The processes that share the network of one, without it."""
    network = _network(pid)
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    return [other for other in pids if other != pid and network and _network(other) == network]


def missing() -> str:
    """Say why there can be no hosts here, and what would change that; nothing if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no hosts here ({', '.join(absent)} missing): {INSTALL}"
    if os.geteuid() != 0:
        return "hosts need root: sudo .venv/bin/python -m pytest tests/hosts"
    try:
        with Hosts("a"):
            return ""
    except OSError as error:
        return f"the kernel refuses ({error}): docker run --privileged, or a virtual machine"


def _address(i: int) -> str:
    return f"10.91.0.{i + 1}"


def _begun(*command: str) -> subprocess.Popen[str]:
    """A process that has said it is ready, and ends with its standard input.

    Raises:
        OSError: It failed.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise OSError(f"{command[0]}: {process.communicate()[1].strip()}")
    return process


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
