r"""Run a launched command in a network: `python -m benchmarks.netlab NETWORK -- COMMAND`.

    python -m benchmarks.netlab                                    # the networks that have a name
    python -m benchmarks.netlab 1gbit                              # make it, measure it
    python -m benchmarks.netlab two-level --launcher horovodrun -- \
        python -m hpc_localsgd.train --algorithm LocalSGD --schedule every --schedule.H 16

NETWORK is one of the names or a YAML file. Every rank runs COMMAND. `--clean` removes the folders
of labs that were killed; nothing else of them is left.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.netlab.hosts import remove_left_behind
from benchmarks.netlab.lab import Lab, LabError, Way
from benchmarks.netlab.launchers import LAUNCHERS
from benchmarks.netlab.network import NETWORKS, Network, NetworkError, network


def main() -> int:
    """Return the exit status of the command; 2 where the network cannot be made."""
    ours, _, command = _split(sys.argv[1:])
    options = _parser().parse_args(ours)
    if options.clean:
        print(f"removed {', '.join(remove_left_behind()) or 'nothing'}")
        return 0
    if options.network is None:
        print("\n".join(map(describe, NETWORKS.values())))
        return 0
    try:
        with Lab(network(options.network)) as lab:
            print(describe(lab.network), file=sys.stderr)
            if options.measure or not command:
                print(table(lab.measured(), lab.delays_by), file=sys.stderr)
            if not command:
                return 0
            done = lab.run(
                command, options.launcher, timeout_s=options.timeout, capture=False, check=False
            )
            return done.returncode
    except NetworkError as error:
        print(error, file=sys.stderr)
        return 2
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def describe(one: Network) -> str:
    """Say a network in a line."""
    parts = [f"{one.hosts} hosts x {one.ranks_per_host} ranks, {one.link} each"]
    if one.hosts_per_rack:
        parts.append(f"racks of {one.hosts_per_rack} behind {one.trunk}")
    parts += [f"{host}: {link}" for host, link in one.links.items()]
    parts += [f"{host} computes {factor:g} x slower" for host, factor in one.slow.items()]
    return f"{one.name:18} {'; '.join(parts)}"


def table(ways: list[Way], delays_by: str) -> str:
    """Say wanted against got."""
    lines = [f"{'way':10} {'wanted':>12} {'got':>12} {'round trip':>12} {'got':>12}"]
    for way in ways:
        rate = f"{way.wanted.bits_per_s / 1e6:.0f} Mb/s" if way.wanted.bits_per_s else "any"
        lines.append(
            f"{way.source} -> {way.target:4} {rate:>12} {way.bytes_per_s * 8 / 1e6:>7.0f} Mb/s "
            f"{2e3 * way.wanted.delay_s:>9.2f} ms {1e3 * way.trip_s:>9.2f} ms"
        )
    lines.append(f"rates by the kernel (tbf), delays by {delays_by}")
    if slow := [f"{way.source} -> {way.target}" for way in ways if not way.as_wanted]:
        lines.append(
            f"NOT as wanted: {', '.join(slow)}. The machine is too busy or too slow for that "
            "rate: measure when nothing else runs, or take a slower network"
        )
    return "\n".join(lines)


def _split(words: list[str]) -> tuple[list[str], str, list[str]]:
    at = words.index("--") if "--" in words else len(words)
    return words[:at], "--", words[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.netlab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", nargs="?", metavar="NETWORK", help="a name or a YAML file")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="mpirun")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end the command then")
    parser.add_argument("--measure", action="store_true", help="measure before the command runs")
    parser.add_argument("--clean", action="store_true", help="remove what killed labs left")
    return parser


if __name__ == "__main__":
    sys.exit(main())
