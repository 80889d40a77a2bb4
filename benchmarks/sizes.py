"""The average, and the exchange on a ring, at every size beside the bare library below them.

    python benchmarks/sizes.py [--megabytes 0.004 1 10 100 400] [--ranks 2 4]

Each world takes turns with the library that it stands on, and MPI with one copy of the same numbers
on all ranks at a time, which is what the memory allows. All refill the vector between two turns,
which is in the time. Targets: at most 1.05 x the bare library from 1 MB on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median

from medians import sureness
from reporting import write_report
from side_by_side import Figure, figures, free_port, started, take_turns

# What is compared: script, the bare way, the others.
GROUPS = {
    "average, MPI": ("mean", "mpi", ("world_mpi", "copy")),
    "average, Gloo": ("mean", "gloo", ("world_torch",)),
    "average, Horovod": ("mean", "horovod", ("world_horovod",)),
    "ring, MPI": ("mix", "neighbours_mpi", ("world_mpi",)),
    "ring, Gloo": ("mix", "neighbours_gloo", ("world_torch",)),
}
MOST_STEPS, BYTES_OF_A_TURN = 200, 100_000_000
HERE = Path(__file__).parent


def main() -> None:
    """Time everything and write the report."""
    options = _parser().parse_args()
    rows, data, left = [], {}, []
    end = time.monotonic() + 60 * options.minutes
    sizes = [round(mb * 1e6) for mb in options.megabytes]
    for size, ranks, title in product(sizes, options.ranks, options.groups):
        cell = f"{title}, {ranks} ranks, {size} bytes"
        if time.monotonic() > end:
            left.append(cell)
            continue
        found = timed(title, ranks, size, options.rounds)
        rows.append(row(title, ranks, size, found))
        data[cell] = {name: asdict(figure) for name, figure in found.items()}
        print(rows[-1], flush=True)
    rows.sort(key=lambda line: line.split("|")[1:3])  # sizes in the order they have
    sure = sureness(options.rounds)
    head = [f"| | ranks | MB | bare, ms | the world, x bare | {sure} | a copy, x bare |"]
    head.append("|---|--:|--:|--:|--:|--:|--:|")
    page = ["# The average at every size, beside the bare library", "\n".join([*head, *rows])]
    page += [between(data), *[f"Left out, for want of time: {'; '.join(left)}."] * bool(left)]
    write_report(options.name, "\n\n".join(page), data)


def timed(title: str, ranks: int, size: int, rounds: int) -> dict[str, Figure]:
    """Time the ways of a group in turns, one float32 vector of `size` bytes on each rank."""
    script, bare, others = GROUPS[title]
    ways = (bare, *others)
    commands = {way: [str(HERE / f"{script}.py"), way, str(size // 4)] for way in ways}
    environ = {way: {"SIDE_BY_SIDE_PORT": str(free_port())} for way in ways}
    steps = max(1, min(MOST_STEPS, BYTES_OF_A_TURN // size))
    with started(commands, ranks, environ) as jobs:
        return figures(take_turns(jobs, dict.fromkeys(ways, steps), rounds), bare)


def row(title: str, ranks: int, size: int, found: dict[str, Figure]) -> str:
    """Lay a group out as a line of a Markdown table."""
    _, bare, (world, *_) = GROUPS[title]
    low, high = found[world].ratio_within
    copy = f"{found['copy'].ratio:.3f}" if "copy" in found else ""
    return (
        f"| {title} | {ranks} | {size / 1e6:g} | {found[bare].ms:.3f} | {found[world].ratio:.3f} "
        f"| {low:.3f} - {high:.3f} | {copy} |"
    )


def between(data: dict[str, dict[str, dict[str, float]]]) -> str:
    """Set the bare libraries beside each other: Gloo and Horovod against MPI."""
    lines = []
    for library, bare in (("Gloo", "gloo"), ("Horovod", "horovod")):
        ratios = [
            data[key.replace(library, "MPI")]["mpi"]["ms"] / data[key][bare]["ms"]
            for key in data
            if key.startswith(f"average, {library}") and key.replace(library, "MPI") in data
        ]
        if ratios:
            spread = f"{1 / max(ratios):.2f} to {1 / min(ratios):.2f}"
            text = f"{library}'s own average takes {1 / median(ratios):.2f} x that of bare MPI"
            lines.append(f"{text} (median over sizes and ranks; {spread}), not timed in turns.")
    return " ".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sizes: Sequence[float] = (0.004, 1, 10, 100, 400)
    parser.add_argument("--megabytes", nargs="+", type=float, default=sizes)
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing after that")
    parser.add_argument("--name", default="sizes", help="of the report")
    return parser


if __name__ == "__main__":
    main()
