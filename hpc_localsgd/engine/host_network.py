"""Names and network interfaces of this host, and what Open MPI's files say of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3  # and its driver
OF_GUESTS = (b"veth", b"tun")  # drivers that connect containers and virtual machines
ASKED_OF_OPEN_MPI = ("--param", "btl", "tcp", "--level", "9", "--parsable")


@dataclass(frozen=True)
class Interface:
    """A network interface that has an IPv4 address.

    Attributes:
        name: Its name.
        address: Its address.
        bridge: Whether it is a bridge that reaches only guests of this host, such as docker0.
    """

    name: str
    address: str
    bridge: bool = False

    @property
    def loopback(self) -> bool:
        """Whether only this host reaches its address."""
        return self.address.startswith("127.")


@dataclass(frozen=True)
class HostNetwork:
    """Names of a host, and how it can be reached.

    Attributes:
        host: Its name.
        addresses: What its name means here; empty where it means nothing.
        interfaces: Those with an address.
        chosen: Whether a file of Open MPI's settings chooses among them.
    """

    host: str
    addresses: tuple[str, ...]
    interfaces: tuple[Interface, ...]
    chosen: bool = False

    @property
    def outward(self) -> Interface | None:
        """The first interface that other hosts may reach."""
        return next((i for i in self.interfaces if not i.bridge and not i.loopback), None)

    @property
    def bridges(self) -> tuple[Interface, ...]:
        """Those that reach only guests of this host."""
        return tuple(i for i in self.interfaces if i.bridge)


def network_here(
    resolve: Callable[[str], tuple[str, ...]] | None = None,
    interfaces: Callable[[], tuple[Interface, ...]] | None = None,
) -> HostNetwork:
    """Return the names and interfaces of this host."""
    host, found = socket.gethostname(), (interfaces or _interfaces)()
    chosen = any(i.bridge for i in found) and chosen_in_a_file()
    return HostNetwork(host, (resolve or _resolved)(host), found, chosen)


def chosen_in_a_file() -> bool:
    """Return whether Open MPI's files of settings name interfaces, as its `ompi_info` says.

    Two of its settings exclude each other: to give one where a file has the other would leave MPI
    without either. False where there is no such program.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (program := shutil.which("ompi_info", path=path)) is None:
        return False
    try:
        asked = [program, *ASKED_OF_OPEN_MPI]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    lines = [line for line in said.stdout.splitlines() if "btl_tcp_if_" in line]
    return any(":source:file" in line for line in lines)


def _resolved(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _interfaces() -> tuple[Interface, ...]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", os.fsencode(name)[:15])
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            address = socket.inet_ntoa(answer[20:24])
            found.append(Interface(name, address, _is_own_bridge(asking, name)))
    return tuple(found)


def _is_own_bridge(asking: socket.socket, name: str) -> bool:
    """Return whether a bridge is for guests alone, without a cable to other hosts."""
    if _driver(asking, name) != b"bridge":
        return False
    try:
        ports = os.listdir(f"/sys/class/net/{name}/brif")
    except OSError:  # /sys shows another network than this one's
        ports = []
    return all(_driver(asking, port) in OF_GUESTS for port in ports)


def _driver(asking: socket.socket, name: str) -> bytes:
    """Return the driver of an interface, also where /sys shows another network than this one's."""
    told = array("B", struct.pack("I192x", ETHTOOL_GDRVINFO))
    request = struct.pack("16sP16x", os.fsencode(name)[:15], told.buffer_info()[0])
    try:
        fcntl.ioctl(asking.fileno(), SIOCETHTOOL, request)
    except OSError:  # a driver that does not say
        return b""
    return told.tobytes()[4:36].partition(b"\0")[0]
