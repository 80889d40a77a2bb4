"""An exchange for SimGrid's simulator of MPI: its platform, its trace, and the seconds it finds.

SimGrid shares every link among the messages that are on it at each moment, where the cost model
counts messages step by step. `smpirun -replay` reads what is written here. Latency and rates are
those of the network as they are: SimGrid's own factors, fitted to a cluster of Ethernet, are off.

Source: Casanova et al., Versatile, scalable, and accurate simulation of distributed applications
and platforms, JPDC 74 (2014); Degomme et al., Simulating MPI applications: the SMPI approach,
IEEE TPDS 28 (2017).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.errors import ConfigurationError

INSTALL = "apt-get install libsimgrid-dev (Debian, Ubuntu), or see simgrid.org"
PATIENCE_S = 1200
MOST_LINES = 5_000_000  # of a trace; some 10 GB in SimGrid's memory
COLLECTIVES = {"ring": "lr", "halving": "rab_rdb"}  # what SimGrid calls these all-reduces
_COSTS_NOTHING = "0:0:0:0:0"  # size, and two lines of size and byte, of what MPI itself computes
OPTIONS = (
    "smpi/simulate-computation:no",
    "smpi/host-speed:1e9",
    *(f"smpi/{name}:{_COSTS_NOTHING}" for name in ("os", "or", "ois")),
    "network/model:CM02",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
    "smpi/allgather:NTSLR",
)


@dataclass(frozen=True)
class Collective:
    """One exchange of all workers.

    Attributes:
        kind: `mean`, `mix` or `gather`.
        K: Workers.
        nbytes: Of a vector.
        n: Workers of a block of a mean.
        pairs: ``(from, to)`` of a mix.
    """

    kind: str
    K: int
    nbytes: int
    n: int = 0
    pairs: tuple[tuple[int, int], ...] = ()


def mix(W: np.ndarray, nbytes: int) -> Collective:
    """Return the exchange of a mix.

    Args:
        W: [K, K], the weights.
        nbytes: Of a vector.
    """
    to, origin = np.nonzero(W - np.diag(np.diag(W)))
    pairs = sorted(zip(origin.tolist(), to.tolist(), strict=True))
    return Collective("mix", len(W), nbytes, pairs=tuple(pairs))


def platform(network: Network, K: int) -> str:
    """Return the XML of K hosts, those behind a trunk together, and of the core between.

    Args:
        network: Between them.
        K: Workers, one a host.
    """
    shared = network.shared
    cable = f'bw="{network.bytes_per_s}Bps" lat="{network.latency_s / 2}s"'
    each = shared.workers if math.isfinite(shared.trunk_bytes_per_s) else 1
    if each == 1:
        core = min(shared.core_bytes_per_s, math.inf)
        backbone = f' bb_bw="{core}Bps" bb_lat="0s"' if math.isfinite(core) else ""
        return _document([_cluster("all", 0, K, cable, backbone)])
    racks = range(math.ceil(K / each))
    lines = ['<zone id="all" routing="Full">']
    for i in racks:
        last = min(K, (i + 1) * each)
        lines.append(_cluster(f"r{i}", i * each, last, cable, f' router_id="g{i}"'))
    rate = f'bandwidth="{shared.trunk_bytes_per_s}Bps" latency="0s"'
    lines += [f'<link id="t{i}" {rate} sharing_policy="SPLITDUPLEX"/>' for i in racks]
    if math.isfinite(shared.core_bytes_per_s):
        lines.append(f'<link id="core" bandwidth="{shared.core_bytes_per_s}Bps" latency="0s"/>')
    middle = '<link_ctn id="core"/>' if math.isfinite(shared.core_bytes_per_s) else ""
    lines += [
        f'<zoneRoute src="r{i}" dst="r{j}" gw_src="g{i}" gw_dst="g{j}" symmetrical="NO">'
        f'<link_ctn id="t{i}" direction="UP"/>{middle}<link_ctn id="t{j}" direction="DOWN"/>'
        "</zoneRoute>"
        for i in racks
        for j in racks
        if i != j
    ]
    return _document([*lines, "</zone>"])


def _cluster(name: str, first: int, end: int, cable: str, more: str) -> str:
    hosts = f'prefix="w" suffix="" radical="{first}-{end - 1}" speed="1Gf"'
    return f'<cluster id="{name}" {hosts} {cable} sharing_policy="SPLITDUPLEX"{more}/>'


def _document(lines: list[str]) -> str:
    head = [
        "<?xml version='1.0'?>",
        '<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">',
        '<platform version="4.1">',
    ]
    return "\n".join([*head, *lines, "</platform>"]) + "\n"


def trace(exchange: Collective) -> str:
    """Return the trace of an exchange, what each rank does on a line of its own.

    Raises:
        ConfigurationError: It is longer than SimGrid can hold.
    """
    K, lines = exchange.K, [f"{k} init" for k in range(exchange.K)]
    if exchange.kind == "mean" and exchange.n not in (0, K):
        if (many := 3 * K * 2 * (exchange.n - 1)) > MOST_LINES:
            raise ConfigurationError(
                f"SimGrid: a trace of {many} messages is more than it can hold"
            )
        lines += _rings(exchange)
    elif exchange.kind == "mean":
        size = -(-exchange.nbytes // K) * K  # its ring cuts the vector in K equal parts
        lines += [f"{k} allreduce {size} 0" for k in range(K)]
    elif exchange.kind == "gather":
        lines += [f"{k} allgather {exchange.nbytes} {exchange.nbytes}" for k in range(K)]
    else:
        lines += _messages(exchange)
    return "\n".join([*lines, *(f"{k} finalize" for k in range(K))]) + "\n"


def _rings(exchange: Collective) -> Iterator[str]:
    """Yield the messages of rings within blocks."""
    n, size = exchange.n, -(-exchange.nbytes // exchange.n)
    for _ in range(2 * (n - 1)):
        for k in range(exchange.K):
            first = k // n * n
            after, before = first + (k - first + 1) % n, first + (k - first - 1) % n
            yield f"{k} isend {after} 0 {size}"
            yield f"{k} recv {before} 0 {size}"
            yield f"{k} waitall"


def _messages(exchange: Collective) -> Iterator[str]:
    """Yield the vectors of a mix, all at once."""
    for origin, to in exchange.pairs:
        yield f"{to} irecv {origin} 0 {exchange.nbytes}"
    for origin, to in exchange.pairs:
        yield f"{origin} isend {to} 0 {exchange.nbytes}"
    yield from (f"{k} waitall" for k in range(exchange.K))


def write(network: Network, exchange: Collective, folder: Path) -> list[str]:
    """Write platform, hosts and trace into a folder; return the command that replays them there."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = "".join(f"w{k}\n" for k in range(exchange.K))
    files = {"platform.xml": platform(network, exchange.K), "hosts.txt": hosts}
    for name, text in {**files, "trace.txt": trace(exchange), "traces.txt": "trace.txt\n"}.items():
        (folder / name).write_text(text)
    how = [*OPTIONS, f"smpi/allreduce:{COLLECTIVES[network.allreduce]}"]
    words = ["smpirun", "-np", str(exchange.K), "-hostfile", "hosts.txt"]
    words += ["-platform", "platform.xml", "-replay", "traces.txt"]
    return [*words, *(f"--cfg={option}" for option in how), "--log=smpi_replay.thres:info"]


def check_installed() -> None:
    """Check that SimGrid's simulator of MPI can be started.

    Raises:
        ConfigurationError: It cannot; says what installs it.
    """
    if shutil.which("smpirun") is None:
        raise ConfigurationError(f"SimGrid's smpirun is not installed: {INSTALL}")


def seconds(
    network: Network, exchange: Collective, folder: Path, options: Sequence[str] = ()
) -> float:
    """Return what SimGrid finds that an exchange takes.

    Args:
        network: Between the workers; what was measured of it is not used.
        exchange: What they do.
        folder: Where its files are written, and stay.
        options: Of SimGrid, which change those that are given here.

    Raises:
        ConfigurationError: SimGrid is not here, or cannot replay it.
    """
    check_installed()
    words = [*write(network, exchange, folder), *options]
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"SimGrid takes more than {PATIENCE_S} s for {folder}") from error
    said = done.stdout + done.stderr
    found = re.search(r"Simulation time ([0-9.eE+-]+)", said)
    if done.returncode or not found:
        last = (said.strip().splitlines() or ["nothing"])[-1]
        raise ConfigurationError(f"SimGrid ended with status {done.returncode}: {last} ({folder})")
    return float(found[1])
