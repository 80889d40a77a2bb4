"""The commands that lay cables: pure functions of a network, run by `hosts`.

A cable has two ends. An end is in a host or at the switch, which is a namespace too, with a bridge
for each rack and one for the core. Rates are the kernel's, by tbf at both ends. A delay is netem's
where the kernel has it; else the cable is no veth pair but two TAP devices, between which the
relay carries frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.netlab.network import Link, Network

SWITCH = "switch"
CORE = "core"
NETEM, RELAY = "netem", "relay"
# What passes at once after a pause. Large, and whole messages meet no cable at all; small, and a
# cable is slower than it should be where the kernel's timer is late, as on a busy machine.
BURST_S, LEAST_BURST_BYTES = 1e-3, 16_000
QUEUE_S = 0.05  # what a switch holds before it drops
# Jumbo frames: this machine's cores carry every frame over every cable on its way, and behind a
# trunk that is eight devices. Of 1500 bytes, 4 hosts sent 16 to 57 MB/s over one of 62.5 MB/s each
# way on two busy cores, as frames that two cores served overtook each other and were sent again.
MTU = 9000
LEAST_FRAME_BYTES = 1500  # of those that are held on their way
ADDRESSES = "10.78.0"


@dataclass(frozen=True)
class End:
    """One end of a cable: the device, who has it, and the bridge it is plugged into, if any."""

    device: str
    place: str
    bridge: str = ""


@dataclass(frozen=True)
class Cable:
    """Between two ends; what leaves the near one is delayed, by all of its delay."""

    near: End
    far: End
    link: Link


def cables(network: Network) -> list[Cable]:
    """Return the cable of every host, then the trunk of every rack."""
    found = []
    for i, name in enumerate(network.names):
        far = End(f"to-{name}", SWITCH, f"rack{network.rack(i)}")
        found.append(Cable(End("eth0", name), far, network.cable(name)))
    if network.hosts_per_rack:
        for r in range(network.rack(network.hosts - 1) + 1):
            near, far = End(f"up{r}", SWITCH, f"rack{r}"), End(f"down{r}", SWITCH, CORE)
            found.append(Cable(near, far, network.trunk))
    return found


def bridges(network: Network) -> list[str]:
    """Return the bridges of the switch."""
    racks = [f"rack{r}" for r in range(network.rack(network.hosts - 1) + 1)]
    return [*racks, CORE] if network.hosts_per_rack else racks


def address(i: int) -> str:
    """Return the address of host number i."""
    return f"{ADDRESSES}.{i + 1}"


def relayed(network: Network, delays_by: str) -> list[Cable]:
    """Return the cables that the relay carries."""
    return [c for c in cables(network) if c.link.delay_s and delays_by == RELAY]


def queueing(cable: Cable, delays_by: str) -> list[list[str]]:
    """Return the `tc` commands of a cable, each beginning with the place it runs in."""
    commands = []
    for end, sends in ((cable.near, True), (cable.far, False)):
        delay = cable.link.delay_s if sends and delays_by == NETEM else 0.0
        commands += _end(end, cable.link.bits_per_s, delay)
    return commands


def burst_bytes(bits_per_s: float) -> int:
    """Return what a cable lets pass at once after a pause."""
    return max(LEAST_BURST_BYTES, round(bits_per_s / 8 * BURST_S))


def _end(end: End, bits_per_s: float, delay_s: float) -> list[list[str]]:
    add, parent, commands = [end.place, "tc", "qdisc", "add", "dev", end.device], ["root"], []
    if delay_s:
        # It holds all that is on its way: a rate times the delay, in frames.
        held = max(1000, int(2 * (bits_per_s or 10e9) / 8 * delay_s / LEAST_FRAME_BYTES))
        netem = ["handle", "1:", "netem", "delay", f"{delay_s * 1e6:.0f}us", "limit", str(held)]
        commands.append([*add, *parent, *netem])
        parent = ["parent", "1:1", "handle", "10:"]
    if bits_per_s:
        burst = burst_bytes(bits_per_s)
        latency = max(QUEUE_S, 4 * 8 * burst / bits_per_s)  # room for frames at low rates too
        rate = ["tbf", "rate", f"{bits_per_s:.0f}bit", "burst", str(burst)]
        commands.append([*add, *parent, *rate, "latency", f"{latency * 1e6:.0f}us"])
    return commands
