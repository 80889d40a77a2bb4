"""Every exchange of a world, timed at every size, as nccl-tests report them; and what fits them.

    mpirun -np 2 python -m benchmarks.collectives --out measured.yaml
    python -m benchmarks.netlab 1gbit -- python -m benchmarks.collectives --out measured.yaml

The file is for `--fabric measured.yaml` of `plan` and of simulated runs. Seconds are the median
over repetitions of the slowest rank's. Algorithm bandwidth is the size of the vector by the
seconds; bus bandwidth is what each rank sent by the seconds, for an average 2 (n - 1) / n of the
vector, and shows how near a cable is to its rate whatever the number of ranks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.reporting import ROOT, commit_of
from hpc_localsgd.analysis.own_files import is_foreign
from hpc_localsgd.commands.assembly.worlds import join_world
from hpc_localsgd.compressors.bf16 import BF16
from hpc_localsgd.cost.cost_model import (
    Cost,
    allreduce_messages,
    allreduce_wire_bytes,
    vectors_on_a_cable,
)
from hpc_localsgd.cost.fitting import Cell, errors, fitted
from hpc_localsgd.cost.network_file import read, written
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import vectors_sent
from hpc_localsgd.topology.directed import exponential
from hpc_localsgd.topology.static import ring
from hpc_localsgd.trajectory.whole_file import put_whole

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

SIZES_BYTES = (4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 16_000_000, 100_000_000)
MOST_GATHERED_BYTES = 400_000_000  # of the K vectors that each rank then holds
LEAST, MOST, WARM_UP = 3, 40, 1
Exchange = Callable[[torch.Tensor], object]


@dataclass(frozen=True)
class Repeated:
    """How often an exchange is timed, LEAST to MOST times, and what its seconds are.

    Attributes:
        at_most_s: Repetitions of a size until then.
        pick: Out of all of them.
        train_bytes: A repetition is a train of exchanges without pauses, in which each rank sends
            as much, and counts by their mean. A shaped cable lets pass at once what it saved in a
            pause: after that it has the rate that it has under lasting use.
    """

    at_most_s: float
    pick: Callable[[list[float]], float]
    train_bytes: int = 0


def main() -> None:
    """Time all of them, print the table, write the file."""
    parser = _parser()
    options = parser.parse_args()
    if len(set(options.sizes)) < 2:
        parser.error("--sizes: two different sizes at least, or nothing can be fitted")
    if options.out and is_foreign(Path(options.out), is_measured):
        parser.error(f"--out {options.out} is there and is no measured network: give another name")
    torch.set_num_threads(1)
    world = join_world(detect(os.environ), options.world, options.device)
    if world.n == 1:
        raise SystemExit("one process has nobody to talk to: put `mpirun -np 2` in front")
    names = options.collectives or list(exchanges(world))
    sizes = sorted({*options.sizes, *options.check})
    pick = min if options.fastest else statistics.median
    how = Repeated(options.seconds, pick, options.train)
    cells = list(measured(world, names, sizes, how))
    per_host = next(iter(_blocks(world)), 1)
    if world.rank == 0:
        costs = fitted([cell for cell in cells if cell.size_bytes in options.sizes])
        print(table(cells, costs))
        if options.out:
            about = {"world": repr(world), "date": str(date.today()), "commit": commit_of(ROOT)}
            about["seconds"] = "fastest repetition" if options.fastest else "median"
            about["train"] = f"{options.train} bytes without a pause" if options.train else "none"
            about["not fitted"] = f"sizes {options.check}" if options.check else "none"
            text = written(options.name, cells, costs, about, per_host)
            with put_whole(Path(options.out)) as unborn:
                unborn.write_text(text)
    world.close()


def is_measured(file: Path) -> bool:
    """Return whether a file is a network, as this writes one."""
    try:
        return bool(read(str(file)))
    except ConfigurationError:
        return False


def exchanges(world: World) -> dict[str, Exchange]:
    """Return what is timed on this world: name -> exchange of a row."""
    found: dict[str, Exchange] = {"mean": world.mean}
    for block in _blocks(world):
        found[f"mean of {block}"] = lambda x, block=block: world.mean(x, block)
    for topology in (ring(), exponential()):
        W = topology.matrix(world.K)
        found[f"mix {type(topology).__name__}"] = lambda x, W=W: world.mix(x, W)
    found["compressed mean"] = lambda x: world.mean_elementwise(x, BF16())
    found["gather"] = lambda x: world.gather_bytes(x.view(torch.uint8))
    return found


def _blocks(world: World) -> list[int]:
    """Return the workers of a host, where that is a block of some and not of all."""
    try:
        block = world.workers_per_host()
    except ConfigurationError:
        return []
    return [block] if 1 < block < world.K else []


def measured(world: World, names: list[str], sizes: list[int], how: Repeated) -> Iterator[Cell]:
    """Time exchanges. A collective; the same cells on every rank."""
    known = exchanges(world)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no exchange {unknown[0]!r} here: type one of {', '.join(known)}")
    with world.ledger.unbilled():
        for name in names:
            for size in sizes:
                if name == "gather" and size * world.K > MOST_GATHERED_BYTES:
                    continue
                yield _cell(world, name, known[name], size, how)


def _cell(world: World, name: str, exchange: Exchange, size: int, how: Repeated) -> Cell:
    x = torch.zeros(1, size // 4, device=world.device)
    traffic = _traffic(world, name, size)
    train = max(1, round(how.train_bytes / traffic[-1]))
    seconds: list[float] = []
    for r in range(WARM_UP + MOST):
        world.gather(np.zeros(1))  # all begin together
        began = time.perf_counter()
        for _ in range(train):
            exchange(x)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        took = float(world.gather(np.array([time.perf_counter() - began])).max())
        if r >= WARM_UP:
            seconds.append(took)
        if len(seconds) >= LEAST and sum(seconds) > how.at_most_s:
            break
    own = own_seconds(world, name, x)
    return Cell(name, size, *traffic, how.pick(seconds) / train, own)


def own_seconds(world: World, name: str, x: torch.Tensor) -> float:
    """Time what a rank computes in an exchange, by itself: the gamma of the model."""
    y, n = x.clone(), world.K
    vectors = _traffic(world, name, 4)[1]

    def compute() -> None:
        if name.startswith("mix"):
            for _ in range(vectors + 1):
                y.add_(x, alpha=0.5)
        elif name.startswith("compressed"):
            code = BF16().encode(x, (x.shape[1],))
            BF16().decode(code, (x.shape[1],), x.dtype)
        elif name != "gather":
            y[:, : -(-x.shape[1] * (n - 1) // n)].add_(x[:, : -(-x.shape[1] * (n - 1) // n)])

    took = []
    for _ in range(LEAST):
        began = time.perf_counter()
        compute()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _traffic(world: World, name: str, size: int) -> tuple[int, int, int]:
    """Payload, messages a rank sends one after another, and their bytes: the model's terms."""
    n = world.K
    if name.startswith("mix"):
        topology = {"mix ring": ring, "mix exponential": exponential}[name]()
        W, per_host = topology.matrix(n), next(iter(_blocks(world)), 1)
        return size, int(vectors_sent(W).max()), vectors_on_a_cable(W, per_host) * size
    if name == "gather":
        return size, n - 1, (n - 1) * size
    workers = int(name.split()[-1]) if name.startswith("mean of") else n
    payload = BF16().payload((size // 4,)) if name.startswith("compressed") else size
    return payload, allreduce_messages(workers), allreduce_wire_bytes(workers, payload)


def table(cells: list[Cell], costs: Mapping[str, Cost]) -> str:
    """Lay the cells out as nccl-tests do, bandwidths in MB/s, with what the fit says."""
    head = f"{'exchange':18} {'bytes':>11} {'ms':>10} {'algbw':>9} {'busbw':>9} {'fit':>7}"
    return "\n".join([head, *map(_line, cells, errors(costs, cells))])


def _line(cell: Cell, error: float) -> str:
    algorithm, bus = (b / cell.seconds / 1e6 for b in (cell.size_bytes, cell.wire_bytes))
    seconds = f"{cell.seconds * 1e3:>10.3f} {algorithm:>9.2f} {bus:>9.2f}"
    return f"{cell.exchange:18} {cell.size_bytes:>11} {seconds} {error:>+7.1%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES_BYTES), metavar="BYTES")
    parser.add_argument(
        "--check", type=int, nargs="+", default=[], metavar="BYTES", help="predicted, not fitted"
    )
    parser.add_argument(
        "--fastest", action="store_true", help="of the repetitions, for a machine with other work"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of repetitions of each size, about"
    )
    parser.add_argument(
        "--train",
        type=int,
        default=0,
        metavar="BYTES",
        help="time exchanges in trains in which a rank sends that much, for shaped cables",
    )
    parser.add_argument("--collectives", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--world", default="auto", help="as --world of train")
    parser.add_argument("--device", default="cpu", help="as --device of train")
    parser.add_argument("--out", metavar="FILE", help="write what fits the seconds, as YAML")
    parser.add_argument("--name", default="measured", help="of the network in the file")
    return parser


if __name__ == "__main__":
    main()
