"""What this machine lacks for a network, and what would change that."""

from __future__ import annotations

import os
import shutil
import subprocess

from benchmarks.netlab.cables import NETEM, RELAY
from benchmarks.netlab.hosts import FIRST, UNSHARE
from benchmarks.netlab.network import Network

PROGRAMS = ("ip", "tc", "nsenter", "unshare", "mount")
INSTALL = "apt-get install --no-install-recommends iproute2 util-linux"
NOTHING = "nothing"
AS_ROOT = "unshare --user --map-root-user --mount"


def missing(network: Network) -> str:
    """Say why there can be no such network here, and what to do; nothing if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"an emulated network needs {', '.join(absent)}: {INSTALL}"
    if os.geteuid() != 0:
        return (
            "an emulated network needs root, or to be root in a user namespace: put "
            f"`{AS_ROOT}` in front of the command"
        )
    if why := _refused([*UNSHARE, "sh", "-c", FIRST]):
        return (
            f"the kernel allows no namespaces here ({why}): a container needs "
            "`docker run --privileged`; or use a virtual machine"
        )
    if delays_by(network) == RELAY and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return (
            "this kernel has no netem (`modprobe sch_netem` where the module is installed), and "
            "/dev/net/tun, by which a relay would delay, cannot be opened: leave out every `delay`"
        )
    return ""


def delays_by(network: Network) -> str:
    """Return who delays on this machine: the kernel, a relay, or nobody where nothing is to be."""
    links = [network.link, *network.links.values()]
    links += [network.trunk] if network.hosts_per_rack else []
    if not any(link.delay_s for link in links):
        return NOTHING
    try_out = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    return RELAY if _refused(["unshare", "--net", "sh", "-c", try_out]) else NETEM


def _refused(command: list[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""
