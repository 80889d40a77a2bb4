"""Can hosts reach each other by the names and interfaces that libraries will pick?

Asked before MPI or Gloo begin, of this host alone: they end in a crash that names neither. Gloo
listens at the address that the host's own name means: torch.distributed's unless it is told an
interface, Horovod's even then. Debian writes `127.0.1.1 name` into /etc/hosts, at which no other
host can connect. Open MPI tries the addresses of all interfaces; a bridge such as docker0 has the
same one on each host, and a rank connects to itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpc_localsgd.environment.findings import OK, PROBLEM, WARNING, Finding
from hpc_localsgd.environment.launch import Launch
from hpc_localsgd.types import ConfigurationError

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3  # and its driver
OF_TORCH = "GLOO_SOCKET_IFNAME"  # names the interface: the name of the host does not matter then
OF_MPI = ("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude", "OMPI_MCA_btl", "UCX_TLS")
LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "HOROVOD_LOCAL_SIZE", "LOCAL_WORLD_SIZE")
NODES = ("SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")


@dataclass(frozen=True)
class Interface:
    """A network interface that has an IPv4 address; `bridge` for one that the host itself makes."""

    name: str
    address: str
    bridge: bool = False


@dataclass(frozen=True)
class HostNetwork:
    """Names of a host, and how it can be reached.

    Attributes:
        host: Its name.
        addresses: What its name means here; empty where it means nothing.
        interfaces: Those with an address.
    """

    host: str
    addresses: tuple[str, ...]
    interfaces: tuple[Interface, ...]

    @property
    def outward(self) -> Interface | None:
        """The first interface that other hosts may reach."""
        usable = (i for i in self.interfaces if not i.bridge and not _is_loopback(i.address))
        return next(usable, None)


def network_here(
    resolve: Callable[[str], tuple[str, ...]] | None = None,
    interfaces: Callable[[], tuple[Interface, ...]] | None = None,
) -> HostNetwork:
    """Return the names and interfaces of this host."""
    host = socket.gethostname()
    return HostNetwork(host, (resolve or _resolved)(host), (interfaces or _interfaces)())


def spans_hosts(environ: Mapping[str, str], launch: Launch) -> bool:
    """Tell whether the ranks of a launch are on several hosts, as far as variables say."""
    for name in LOCAL_SIZES:
        if (text := environ.get(name, "")).isdecimal() and launch.size is not None:
            return launch.size > int(text)
    nodes = next((environ[name] for name in NODES if name in environ), "1")
    return launch.launcher not in ("none", "sbatch") and nodes.isdecimal() and int(nodes) > 1


def judge(
    network: HostNetwork, launch: Launch, environ: Mapping[str, str], world: str = ""
) -> Finding:
    """Judge names and interfaces of one host, for the library that connects its ranks.

    Args:
        network: The host's.
        launch: Who started this process.
        environ: Its variables.
        world: "torch" where torch.distributed is used, with any launcher.
    """
    by_torch = world == "torch" or launch.launcher == "torchrun"
    by_gloo = by_torch or launch.launcher == "horovodrun --gloo"
    shown = ", ".join(f"{i.name} {i.address}" for i in network.interfaces if i.name != "lo")
    text = f"{network.host} is {', '.join(network.addresses) or 'unknown'}; {shown or 'no network'}"
    several = spans_hosts(environ, launch)
    if by_gloo and not network.addresses and (several or not by_torch):
        return _unknown(network, several)
    if not several:
        return Finding(OK, "network", text)
    found = _by_gloo(network, by_torch, environ) if by_gloo else _by_mpi(network, environ)
    return found or Finding(OK, "network", text)


def _unknown(network: HostNetwork, several: bool) -> Finding:
    address = network.outward.address if several and network.outward else "127.0.0.1"
    text = f"{network.host} does not know its own name, and Gloo ends in a crash or alone"
    return Finding(PROBLEM, "network", text, f"add a line to /etc/hosts: {address} {network.host}")


def _by_gloo(network: HostNetwork, torch: bool, environ: Mapping[str, str]) -> Finding | None:
    if torch and environ.get(OF_TORCH):
        return None
    if not _is_loopback(network.addresses[0]):  # Gloo takes the first that it can listen at
        return None
    out = network.outward
    name, address = (out.name, out.address) if out else ("eth0", "ADDRESS")
    text = f"{network.host} calls itself {network.addresses[0]}, where no other host can connect"
    fix = f"in /etc/hosts of {network.host} write: {address} {network.host}"
    if torch:
        fix = f"export {OF_TORCH}={name} on every host; or {fix}"
    else:
        fix += "; or leave out --gloo (Horovod's MPI does not need the name)"
    return Finding(PROBLEM, "network", text, fix)


def _by_mpi(network: HostNetwork, environ: Mapping[str, str]) -> Finding | None:
    bridges = [i for i in network.interfaces if i.bridge]
    if not bridges or any(environ.get(name) for name in OF_MPI):
        return None
    out = network.outward
    name = out.name if out else "eth0"
    named = ", ".join(f"{i.name} {i.address}" for i in bridges)
    text = f"{network.host} has {named}: if other hosts have it too, Open MPI connects to itself"
    fix = (
        f"export OMPI_MCA_btl_tcp_if_include={name}, or mpirun --mca btl_tcp_if_include {name}, "
        f'or horovodrun --mpi-args="--mca btl_tcp_if_include {name}"'
    )
    return Finding(WARNING, "network", text, fix)


def check_before(
    environ: Mapping[str, str], launch: Launch, world: str, network: HostNetwork | None = None
) -> None:
    """Check this host before a library connects: warn of what may fail, refuse what will.

    Raises:
        ConfigurationError: Ranks on other hosts could not connect. On this host's ranks alone: the
            others would wait, and the launcher ends them.
    """
    finding = judge(network or network_here(), launch, environ, world)
    if finding.level == PROBLEM:
        raise ConfigurationError(f"{finding.text}: {finding.fix}")
    if finding.level == WARNING and launch.local_rank in (0, None):
        sys.stderr.write(f"{finding.text}: {finding.fix}\n")


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")


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
            found.append(Interface(name, address, _driver(asking, name) == b"bridge"))
    return tuple(found)


def _driver(asking: socket.socket, name: str) -> bytes:
    """Return the driver of an interface, also where /sys shows another network than this one's."""
    told = array("B", struct.pack("I192x", ETHTOOL_GDRVINFO))
    request = struct.pack("16sP16x", os.fsencode(name)[:15], told.buffer_info()[0])
    try:
        fcntl.ioctl(asking.fileno(), SIOCETHTOOL, request)
    except OSError:  # a driver that does not say
        return b""
    return told.tobytes()[4:36].partition(b"\0")[0]
