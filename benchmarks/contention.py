"""Does the cost model predict what SimGrid finds of exchanges that share links, up to 1024 ranks?

    python -m benchmarks.contention              # needs SimGrid: apt-get install libsimgrid-dev

SimGrid is asked twice: with latency and rates as they are, where every difference is the model's;
and as it comes, with the factors that its authors fitted to a cluster of 1 Gb/s Ethernet and Open
MPI's choice of algorithms. Target: the first within 15 %.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.reporting import write_report
from hpc_localsgd.cost import simgrid
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.topology.directed import exponential
from hpc_localsgd.topology.static import ring

LINKS = "50us,117MB/s"
BEHIND = {
    "no shared link": "",
    "core of 10 GB/s": ",core=10GB/s",
    "trunks of 1 GB/s for 32": ",trunk=1GB/s/32",
    "trunks of 1 GB/s for 32, core of 10 GB/s": ",trunk=1GB/s/32,core=10GB/s",
}
RANKS = (4, 64, 1024)
SIZES = (64_000, 8_000_000)
TARGET = 0.15
MANY = 256  # ranks above which a ring of messages takes SimGrid minutes,
WORST = "core of 10 GB/s"  # so that it is asked for only here
AS_IT_COMES = (
    *("--cfg=network/model:SMPI", "--cfg=smpi/allreduce:ompi", "--cfg=smpi/allgather:ompi"),
    *("--cfg=network/TCP-gamma:4194304", "--cfg=network/crosstraffic:1"),
)


@dataclass(frozen=True)
class Case:
    """One exchange on one network: what the model says, what SimGrid finds, what that took."""

    behind: str
    exchange: str
    ranks: int
    size_bytes: int
    model_s: float
    alone_s: float
    simgrid_s: float
    calibrated_s: float
    took_s: float

    @property
    def error(self) -> float:
        """Relative, of the model."""
        return self.model_s / self.simgrid_s - 1


def main() -> None:
    """Ask both of every case and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    options = parser.parse_args()
    simgrid.check_installed()
    with TemporaryDirectory() as folder:
        found = list(cases(options.ranks, Path(folder)))
    parts = ["# Exchanges behind shared links: the cost model and SimGrid", INTRODUCTION]
    parts += [summary(found)]
    parts += [f"## {LINKS}: {behind}\n\n{table(found, behind)}" for behind in BEHIND]
    write_report("contention", "\n\n".join(parts), {"cases": [asdict(case) for case in found]})


def cases(ranks: list[int], folder: Path) -> Iterator[Case]:
    """Run every exchange on every network."""
    for behind, words in BEHIND.items():
        one, halving = (network(f"{LINKS}{words}{more}") for more in ("", ",allreduce=halving"))
        for K in ranks:
            for size in SIZES if K <= MANY else SIZES[-1:]:
                if K <= MANY or behind == WORST:
                    yield case(behind, "mean, ring", one, K, size, folder)
                yield case(behind, "mean, halving", halving, K, size, folder)
                yield case(behind, "mix, ring", one, K, size, folder)
                yield case(behind, "mix, exponential", one, K, size, folder)
            if K <= MANY:
                yield case(behind, "gather", one, K, SIZES[0], folder)


def case(behind: str, name: str, on: Network, K: int, size: int, folder: Path) -> Case:
    """Ask the model, the model without shared links, and SimGrid twice."""
    kind, _, how = name.partition(", ")
    alone = Network("", on.latency_s, on.bytes_per_s, allreduce=on.allreduce)
    if kind == "mix":
        W = (ring() if how == "ring" else exponential()).matrix(K)
        exchange, told = simgrid.mix(W, size), [n.mix_s(W, size) for n in (on, alone)]
    elif kind == "mean":
        exchange = simgrid.Collective("mean", K, size, K)
        told = [n.mean_s(K, size) for n in (on, alone)]
    else:
        exchange = simgrid.Collective("gather", K, size)
        told = [n.gather_s(K, size) for n in (on, alone)]
    began = time.perf_counter()
    plain = simgrid.seconds(on, exchange, folder)
    took = time.perf_counter() - began
    calibrated = math.nan if K > MANY else simgrid.seconds(on, exchange, folder, AS_IT_COMES)
    return Case(behind, name, K, size, told[0], told[1], plain, calibrated, took)


def summary(found: list[Case]) -> str:
    """Say how far the model is off, and how far it was without shared links."""
    wrong = [abs(c.error) for c in found]
    before = [abs(c.alone_s / c.simgrid_s - 1) for c in found]
    within = sum(error <= TARGET for error in wrong)
    worst = max(found, key=lambda c: c.simgrid_s / c.alone_s)
    took = max(found, key=lambda c: c.took_s)
    return (
        f"- {within} of {len(found)} cases within {TARGET:.0%}; median "
        f"{statistics.median(wrong):.2%}, largest {max(wrong):.2%}\n"
        f"- without shared links {sum(e <= TARGET for e in before)} would be; the worst takes "
        f"{worst.simgrid_s / worst.alone_s:.1f} times as long ({worst.exchange}, "
        f"{worst.ranks} ranks, {worst.behind})\n"
        f"- the slowest replay took {took.took_s:.1f} s ({took.exchange}, {took.ranks} ranks)"
    )


def table(found: list[Case], behind: str) -> str:
    """Lay out the cases of a network."""
    lines = ["| exchange | ranks | bytes | model ms | SimGrid ms | error | no shared link ms "]
    lines[0] += "| SimGrid as it comes ms |"
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for c in (c for c in found if c.behind == behind):
        ms = [f"{1e3 * s:.2f}" for s in (c.model_s, c.simgrid_s, c.alone_s, c.calibrated_s)]
        lines.append(
            f"| {c.exchange} | {c.ranks} | {c.size_bytes} | {ms[0]} | {ms[1]} "
            f"| {c.error:+.1%} | {ms[2]} | {ms[3].replace('nan', '-')} |"
        )
    return "\n".join(lines)


INTRODUCTION = (
    "SimGrid replays each exchange message by message on a platform with these links, which it "
    "shares among the messages that are on them at each moment; the model counts messages on the "
    "busiest link, step by step. The error is the model's, against SimGrid with latency and rates "
    "as they are. As it comes, SimGrid has factors of its own, fitted to 1 Gb/s Ethernet, and Open "
    "MPI's choice of algorithms: how far a network is from its alpha and beta as typed, and why "
    "they should be measured. Where the model is a few percent above SimGrid, short vectors are "
    "mixed: it bills the messages to several neighbours a latency each, and SimGrid sends all at "
    "once. Everything is simulated; nothing ran on a network."
)


if __name__ == "__main__":
    main()
