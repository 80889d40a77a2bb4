"""Whether hosts can reach each other by the names and interfaces that libraries will pick.

Asked before MPI or Gloo begin, of this host alone: they end in a crash that names neither. Gloo
listens at the address that the host's own name means: torch.distributed's unless it is told an
interface, Horovod's even then. Debian writes `127.0.1.1 name` into /etc/hosts, at which no other
host can connect. Open MPI tries the addresses of all interfaces; a bridge such as docker0 has the
same one on each host, and a rank connects to itself and waits for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping

from hpc_localsgd.engine.finding import OK, PROBLEM, WARNING, Finding
from hpc_localsgd.engine.host_network import HostNetwork, network_here
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.cores import LOCAL_SIZES

OF_TORCH = "GLOO_SOCKET_IFNAME"  # names the interface: the name of the host does not matter then
INCLUDE, EXCLUDE = "OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude"
NEVER = ("127.0.0.1/8", "sppp")  # what Open MPI itself leaves out where it is told nothing
NODES = ("SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")


def spans_hosts(environ: Mapping[str, str], launch: Launch) -> bool:
    """Tell whether the ranks of a launch are on several hosts, as far as variables say."""
    for name in LOCAL_SIZES:
        if (text := environ.get(name, "")).isdecimal() and launch.size is not None:
            return launch.size > int(text)
    nodes = next((environ[name] for name in NODES if name in environ), "1")
    return launch.launched and nodes.isdecimal() and int(nodes) > 1


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


def loopback(network: HostNetwork, found: Finding) -> Finding:
    """Return what was found, or that the loopback is down, without which no launcher works."""
    up = any(i.loopback for i in network.interfaces) or not sys.platform.startswith("linux")
    if up or found.level != OK:
        return found
    text = f"{network.host} has no 127.0.0.1, by which launchers talk to the ranks of a host"
    return Finding(WARNING, "network", text, "as root: ip link set lo up")


def _unknown(network: HostNetwork, several: bool) -> Finding:
    address = network.outward.address if several and network.outward else "127.0.0.1"
    text = f"{network.host} cannot resolve its own name: Gloo would crash, or see this rank alone"
    return Finding(PROBLEM, "network", text, f"add a line to /etc/hosts: {address} {network.host}")


def _by_gloo(network: HostNetwork, torch: bool, environ: Mapping[str, str]) -> Finding | None:
    if torch and environ.get(OF_TORCH):
        return None
    if not network.addresses[0].startswith("127."):  # Gloo takes the first that it can listen at
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
    if not network.bridges or network.chosen or environ.get(INCLUDE) or environ.get(EXCLUDE):
        return None
    name = network.outward.name if network.outward else "eth0"
    text = (
        f"{network.host} has {_bridges(network)}: if other hosts have it too, Open MPI connects to "
        "itself and hangs. This package leaves it out where it begins MPI; another program does not"
    )
    fix = (
        f"export {INCLUDE}={name}, or mpirun --mca btl_tcp_if_include {name}, "
        f'or horovodrun --mpi-args="--mca btl_tcp_if_include {name}"'
    )
    return Finding(WARNING, "network", text, fix)


def _bridges(network: HostNetwork) -> str:
    return ", ".join(f"{i.name} {i.address}" for i in network.bridges)


def check_before(
    environ: MutableMapping[str, str],
    launch: Launch,
    world: str,
    network: HostNetwork | None = None,
) -> None:
    """Check this host before a library connects: mend what can be, refuse what will fail.

    Args:
        environ: The variables of this process; one is added for Open MPI where it has to be.
        launch: Who started it.
        world: The library that connects: horovod, mpi or torch.
        network: The host's; None to look.

    Raises:
        ConfigurationError: Ranks on other hosts could not connect. On this host's ranks alone: the
            others would wait, and the launcher ends them.
    """
    network = network or network_here()
    finding = judge(network, launch, environ, world)
    if finding.level == PROBLEM:
        raise ConfigurationError(f"{finding.text}: {finding.fix}")
    if finding.level == WARNING and leave_out_bridges(environ, network) and launch.rank == 0:
        said = f"Open MPI is told to leave out {_bridges(network)}, a bridge of {network.host}"
        sys.stderr.write(f"{said}'s own ({EXCLUDE})\n")


def leave_out_bridges(environ: MutableMapping[str, str], network: HostNetwork) -> bool:
    """Tell Open MPI, before it begins, not to use bridges that no other host can reach.

    Args:
        environ: The variables of this process, which Open MPI reads.
        network: The host's.

    Returns:
        Whether it was told: not where bridges are all there is.
    """
    if network.outward is None:
        return False
    environ[EXCLUDE] = ",".join([*NEVER, *(i.name for i in network.bridges)])
    return True
