"""What a network is, in words: hosts, the cables to their switch, racks and their trunks.

name: two racks              # a YAML file; every key but `hosts` may be left out
hosts: 4
ranks_per_host: 2
link: {rate: 1 Gb/s, delay: 0.05 ms}
hosts_per_rack: 2
trunk: {rate: 1 Gb/s, delay: 0.5 ms}
links: {h3: {rate: 100 Mb/s}}    # one slow cable
slow: {h2: 2}                    # a host that computes at half the speed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

_RATES = {"kb/s": 1e3, "Mb/s": 1e6, "Gb/s": 1e9}  # bits
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
UNSHAPED = 0.0


class NetworkError(ValueError):
    """A description of a network that cannot be built; says what to write instead."""


@dataclass(frozen=True)
class Link:
    """A cable; both directions alike.

    Attributes:
        bits_per_s: Its rate; 0 leaves it as fast as the kernel is.
        delay_s: From one end to the other.
    """

    bits_per_s: float = UNSHAPED
    delay_s: float = 0.0

    @property
    def bytes_per_s(self) -> float:
        """What a program can send at best, headers included."""
        return self.bits_per_s / 8 if self.bits_per_s else float("inf")

    def __str__(self) -> str:
        rate = f"{self.bits_per_s / 1e6:g} Mb/s" if self.bits_per_s else "as fast as the kernel is"
        return f"{rate}, {self.delay_s * 1e3:g} ms"


@dataclass(frozen=True)
class Network:
    """Hosts h0, h1, ... on one switch, or on one switch a rack with a trunk to the core.

    Attributes:
        name: What it is called in tables.
        hosts: How many.
        ranks_per_host: Which talk through their host's memory, faster than any cable here.
        link: The cable from a host to its switch; the way from a host to another one of its rack
            has the delay of one of them.
        hosts_per_rack: 0 for a single switch.
        trunk: The cable from the switch of a rack to the core, which the hosts of the rack share.
        links: Hosts whose cable is another one.
        slow: Hosts whose processes get 1 / factor of the time: host -> factor.
    """

    name: str
    hosts: int
    ranks_per_host: int = 1
    link: Link = Link()
    hosts_per_rack: int = 0
    trunk: Link = Link()
    links: Mapping[str, Link] = field(default_factory=dict)
    slow: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in {"hosts": self.hosts, "ranks_per_host": self.ranks_per_host}.items():
            if not isinstance(value, int) or not 1 <= value <= 250:
                raise NetworkError(f"{what} is a whole number from 1 to 250, not {value!r}")
        if not isinstance(self.hosts_per_rack, int) or self.hosts_per_rack < 0:
            raise NetworkError(f"hosts_per_rack is a whole number, not {self.hosts_per_rack!r}")
        for host in (*self.links, *self.slow):
            if host not in self.names:
                raise NetworkError(f"no host {host!r}: type one of {', '.join(self.names)}")
        for host, factor in self.slow.items():
            if not isinstance(factor, int | float) or not 1 < factor <= 100:
                raise NetworkError(f"slow: {host}: a factor above 1, at most 100, not {factor!r}")

    @property
    def names(self) -> list[str]:
        """What the hosts call themselves."""
        return [f"h{i}" for i in range(self.hosts)]

    @property
    def ranks(self) -> int:
        """Processes of a launch that fills it."""
        return self.hosts * self.ranks_per_host

    def rack(self, i: int) -> int:
        """Return the rack of host number i."""
        return i // self.hosts_per_rack if self.hosts_per_rack else 0

    def cable(self, name: str) -> Link:
        """Return the cable of a host."""
        return self.links.get(name, self.link)

    def between(self, i: int, j: int) -> Link:
        """Return what one flow from host i to host j meets: the slowest cable, all delays."""
        # A delay is added where a host or a rack sends, so a way down adds none.
        way = [self.cable(f"h{i}")]
        rates = [way[0].bytes_per_s, self.cable(f"h{j}").bytes_per_s]
        if self.rack(i) != self.rack(j):
            way.append(self.trunk)
            rates.append(self.trunk.bytes_per_s)
        slowest = min(rates)
        bits = 8 * slowest if slowest < float("inf") else UNSHAPED
        return Link(bits, sum(link.delay_s for link in way))


def _gigabit(name: str, hosts: int, ranks_per_host: int, **more: Any) -> Network:
    return Network(name, hosts, ranks_per_host, Link(1e9), **more)


NETWORKS = {
    made.name: made
    for made in (
        _gigabit("1gbit", 2, 1),
        _gigabit("1gbit-4", 4, 1),
        _gigabit("two-level", 2, 2),
        Network("10gbit", 2, 1, Link(10e9)),
        Network("100mbit", 2, 1, Link(100e6)),
        Network("two-level-100mbit", 2, 2, Link(100e6)),
        Network("wide-area", 2, 1, Link(100e6, 10e-3)),
        _gigabit("oversubscribed", 4, 1, hosts_per_rack=2, trunk=Link(500e6)),
        _gigabit("slow-link", 4, 1, links={"h3": Link(100e6)}),
        _gigabit("straggler", 2, 1, slow={"h1": 2.0}),
    )
}


def network(name: str) -> Network:
    """Return a network by name or from a YAML file.

    Raises:
        NetworkError: Neither; or the file says what cannot be built.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if not Path(name).is_file():
        known = ", ".join(NETWORKS)
        raise NetworkError(f"no network {name!r}: type one of {known}, or a YAML file")
    try:
        said = yaml.safe_load(Path(name).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NetworkError(f"{name} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict):
        raise NetworkError(f"{name} describes no network: write `hosts: 2` and `link: ...`")
    return _of({"name": Path(name).stem, **said}, name)


def _of(said: dict[str, Any], file: str) -> Network:
    known = {f.name for f in fields(Network)}
    if wrong := [key for key in said if key not in known]:
        raise NetworkError(f"{file}: no key {wrong[0]!r}: write one of {', '.join(sorted(known))}")
    if "hosts" not in said:
        raise NetworkError(f"{file}: how many hosts? Write `hosts: 2`")
    for key in ("link", "trunk"):
        if key in said:
            said[key] = _link(said[key], key)
    links = said.get("links", {})
    if not isinstance(links, dict) or not isinstance(said.get("slow", {}), dict):
        raise NetworkError(f"{file}: `links` and `slow` name hosts: write `slow: {{h1: 2}}`")
    said["links"] = {host: _link(words, host) for host, words in links.items()}
    return Network(**said)


def _link(words: Any, key: str) -> Link:
    if not isinstance(words, dict) or set(words) - {"rate", "delay"}:
        raise NetworkError(f"{key}: write {{rate: 1 Gb/s, delay: 0.5 ms}}, not {words!r}")
    rate = _number(words["rate"], _RATES, key) if "rate" in words else UNSHAPED
    return Link(rate, _number(words["delay"], _TIMES, key) if "delay" in words else 0.0)


def _number(words: Any, units: Mapping[str, float], key: str) -> float:
    found = re.fullmatch(r"([0-9.]+) *(\S+)", str(words))
    try:
        assert found is not None
        return float(found[1]) * units[found[2]]
    except (AssertionError, KeyError, ValueError):
        example = f"a number and one of {', '.join(units)}"
        raise NetworkError(f"{key}: {words!r} is not {example}") from None
