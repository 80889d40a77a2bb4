"""Hosts on one machine: each with a network, a name, a memory and an /etc/hosts of its own.

All live in namespaces of one first process, which ends when its standard input does. The kernel
then ends every other one in there and takes all devices away: whatever happens to the lab, kill -9
included, nothing runs on, and only a folder is left, which the next lab removes. All hosts see the
files of this machine, as hosts see a shared folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.netlab import cables
from benchmarks.netlab.commands import write_commands
from benchmarks.netlab.network import Network, NetworkError

PREFIX = "netlab-"
PATIENCE_S = 30
# The shell waits for `cat`, and so for orphans too.
FIRST = 'mount -t proc proc /proc && ip link set lo up && echo "ready $$" && cat; exit 0'
BORN = """
mount --bind "$1/etc-hosts" /etc/hosts && mount -t tmpfs tmpfs "$1/own" &&
mount -t tmpfs tmpfs /dev/shm && hostname "$2" && ip link set lo up &&
echo "ready $$" && exec cat
"""


class Hosts:
    """The hosts of a network, with its cables laid; nothing is made before `begin`."""

    def __init__(self, network: Network, delays_by: str) -> None:
        self.network, self._delays_by = network, delays_by
        self._held: list[subprocess.Popen[str]] = []

    def begin(self) -> None:
        """Make all of it.

        Raises:
            NetworkError: The kernel refused; what was made is gone again.
        """
        remove_left_behind()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))  # sockets: a short path
        self._lock = _locked(self.folder)
        try:
            self._write()
            self._first = self._hold([*UNSHARE, "sh", "-c", FIRST])[0]
            for bridge in cables.bridges(self.network):
                self._at_switch("ip", "link", "add", bridge, "type", "bridge")
                self._at_switch("ip", "link", "set", bridge, "up")
            for name in self.network.names:
                born = ["unshare", "--net", "--uts", "--mount", "sh", "-c", BORN, "-"]
                _, pid = self._hold([*self.inside, *born, str(self.folder), name])
                (self.folder / f"pid-{name}").write_text(pid)
            self._lay()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Let all of it go."""
        for process in reversed(self._held):
            process.kill()
        for process in self._held:
            process.communicate()
        self._held.clear()
        shutil.rmtree(self.folder)
        os.close(self._lock)

    def on(self, name: str) -> list[str]:
        """Return what to put before a command that is to run on a host."""
        return [*self.inside, str(self.folder / "bin" / "on"), name]

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to run at the switch, which has every program."""
        pid = self._first.pid
        spaces = ["-n", "-m", f"--pid=/proc/{pid}/ns/pid_for_children"]
        return ["nsenter", "-t", str(pid), *spaces]

    def strays(self) -> list[int]:
        """Return what runs on the hosts and is none of what keeps them."""
        held = {process.pid for process in self._held}
        own = os.readlink(f"/proc/{self._first.pid}/ns/pid_for_children")
        switch = os.readlink(f"/proc/{self._first.pid}/ns/net")
        found = []
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
            with suppress(OSError):
                spaces = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net")]
                if spaces[0] == own and spaces[1] != switch and _parent(pid) not in held:
                    found.append(pid)
        return found

    def hold(self, command: list[str]) -> None:
        """Start what says it is ready and stays as long as the hosts.

        Raises:
            NetworkError: It failed.
        """
        self._hold(command)

    def _hold(self, command: list[str]) -> tuple[subprocess.Popen[str], str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self._held.append(process)
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if said[:1] != ["ready"]:
            process.kill()
            raise NetworkError(f"the kernel refuses: {process.communicate()[1].strip()}")
        return process, said[-1]

    def _write(self) -> None:
        names = enumerate(self.network.names)
        # Also as torch asks: nobody answers there, and every question would wait.
        known = "".join(f"{a} {name}\n" for i, name in names for a in _addresses(i))
        (self.folder / "etc-hosts").write_text(f"127.0.0.1 localhost\n{known}")
        (self.folder / "own").mkdir()
        write_commands(self.folder)

    def _lay(self) -> None:
        relayed = cables.relayed(self.network, self._delays_by)
        if relayed:
            script = str(Path(__file__).with_name("relay.py"))
            ends = [(_outside(c.near), c.far.device, repr(c.link.delay_s)) for c in relayed]
            self.hold([*self.inside, sys.executable, script, *(w for end in ends for w in end)])
        for cable in cables.cables(self.network):
            self._plug(cable, made=cable in relayed)
            for place, *command in cables.queueing(cable, self._delays_by):
                self._at(place, *command)
        for i, name in enumerate(self.network.names):
            self._at(name, "ip", "addr", "add", f"{cables.address(i)}/24", "dev", "eth0")

    def _plug(self, cable: cables.Cable, *, made: bool) -> None:
        near, far, size = cable.near, cable.far, str(cables.MTU)
        if not made:
            peer = ["type", "veth", "peer", "name", _outside(near)]
            self._at_switch("ip", "link", "add", far.device, *peer)
        if near.place != cables.SWITCH:
            pid = (self.folder / f"pid-{near.place}").read_text()
            self._at_switch("ip", "link", "set", _outside(near), "netns", pid, "name", near.device)
        for end in (near, far):
            self._at(end.place, "ip", "link", "set", end.device, "mtu", size)
            if end.bridge:
                self._at(end.place, "ip", "link", "set", end.device, "master", end.bridge)
            self._at(end.place, "ip", "link", "set", end.device, "up")

    def _at(self, place: str, *command: str) -> None:
        do([*(self.inside if place == cables.SWITCH else self.on(place)), *command])

    def _at_switch(self, *command: str) -> None:
        self._at(cables.SWITCH, *command)


UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]


def do(command: list[str]) -> str:
    """Run a command and return what it said.

    Raises:
        NetworkError: It failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def remove_left_behind() -> list[str]:
    """Remove the folders of labs that were killed; return their names."""
    removed = []
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < 1:  # its lab may not have locked it yet
                continue
            os.close(_locked(folder))
            shutil.rmtree(folder)
            removed.append(folder.name)
    return removed


def _locked(folder: Path) -> int:
    """Hold the lock of a folder; raises OSError where another process does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _addresses(i: int) -> list[str]:
    return [cables.address(i), f"::ffff:{cables.address(i)}"]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _outside(end: cables.End) -> str:
    """Return how a device is called before it is where it belongs."""
    return end.device if end.place == cables.SWITCH else f"of-{end.place}"
