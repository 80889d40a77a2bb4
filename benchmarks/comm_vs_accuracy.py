"""Accuracy against communication: a grid of methods on one task, priced on networks.

    python benchmarks/comm_vs_accuracy.py benchmarks/frontier/quick.yaml --networks 1GbE 10GbE
    python benchmarks/comm_vs_accuracy.py benchmarks/frontier/emulated.yaml --emulated 100mbit 1gbit
    python benchmarks/comm_vs_accuracy.py --from-runs runs/a runs/b ...

Does the runs of the grid (`python -m hpc_localsgd sweep`; what is complete is kept), and shows for
each method the test accuracy of the mean model against the bytes a worker sent, its seconds of
communication and all seconds of training, with what it took to come to the target. Writes a figure
(PNG, PDF) and the table (CSV, Markdown, LaTeX) into the folder of the sweep or --out; `--report`
writes benchmarks/reports/comm_vs_accuracy.md.

Seconds on a named network are modelled, from one training in one process: the alpha-beta model of
the network, and one time of a step for all methods, the fastest run's median or --step-time.
On an emulated network (`python -m benchmarks.netlab`) they are measured, by ranks under mpirun;
where this machine allows none, its likeness is modelled. Otherwise they are those of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from frontier import emulated, tables
from frontier.points import Price, point
from frontier.pricing import RunCost, as_recorded, priced, step_seconds
from frontier.written import Frontier, report, write

from hpc_localsgd.analysis.compare import SeedGroup, grouped_runs
from hpc_localsgd.analysis.report.source import Source, open_runs
from hpc_localsgd.commands.configuration.config import recorded
from hpc_localsgd.commands.sweep import main as sweep
from hpc_localsgd.commands.sweep import manifest, request
from hpc_localsgd.commands.sweep.table import groups
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import TrajectoryError

NAME = "comm_vs_accuracy"
Priced = dict[
    str, tuple[dict[str, SeedGroup], Price]
]  # a network -> the runs of each method, and how


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs and show their results; return the exit status."""
    options = parser().parse_args(argv)
    try:
        _check(options)
        found, out = _of_runs(options) if options.from_runs else _of_a_grid(options)
        if not found or not all(labels for labels, _ in found.values()):
            return 1
        made = frontier(found, options)
        files = write(made, out, options.floor)
        if options.report:
            files += report(made, options.floor, options.report)
    except (ConfigurationError, TrajectoryError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    print("\n".join([tables.as_markdown(made.networks), *made.notes, *map(str, files)]))
    return 0


def parser() -> argparse.ArgumentParser:
    """Give the options of the script."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("grid", nargs="?", help="file of a sweep")
    made.add_argument(
        "--from-runs", nargs="+", default=[], metavar="RUN", help="runs that are there"
    )
    made.add_argument(
        "--networks",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="price the runs on these; each as for --fabric, a file of measured ones too",
    )
    made.add_argument(
        "--emulated",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="do the runs on these of netlab",
    )
    made.add_argument("--step-time", type=float, help="seconds of a local step, for --networks")
    made.add_argument("--target", type=float, help="test accuracy; default: that of the task")
    made.add_argument("--floor", type=float, help="least accuracy that is drawn")
    made.add_argument("--jobs", default="1", help="runs at a time")
    made.add_argument("--out", help="where figure and table go")
    made.add_argument(
        "--report", nargs="?", const=NAME, metavar="NAME", help=f"write reports/NAME.md; {NAME}"
    )
    made.add_argument("--trust", action="append", default=[], help="as for the other commands")
    return made


def _check(options: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigurationError: It is so.
    """
    if bool(options.grid) == bool(options.from_runs):
        raise ConfigurationError("give the file of a grid, or --from-runs RUN ...")
    if options.emulated and (options.from_runs or options.networks):
        raise ConfigurationError("--emulated does the runs of a grid: leave --networks out")
    for name in options.networks:
        network(name)  # before hours of training
    for name in options.emulated:
        why = emulated.refused(name)
        if why:
            print(f"{name} is modelled, not emulated: {why}", file=sys.stderr)
            options.networks = [emulated.modelled(each) for each in options.emulated]
            options.emulated = []
            break


def _of_a_grid(options: argparse.Namespace) -> tuple[Priced, Path]:
    """Do the runs of a grid that are left, and give them all."""
    asked = request.request(request.read(options.grid), {})
    out = Path(options.out or asked.out)
    if options.emulated:
        folders = {name: asked.out / Path(name).stem for name in options.emulated}
        found = {n: emulated.runs_on(n, options.grid, folder) for n, folder in folders.items()}
        return {f"{n} (emulated)": (labels, _recorded) for n, labels in found.items()}, out
    if sweep([options.grid, "--jobs", options.jobs]) not in (0, 3):  # 3: some diverged
        return {}, out
    return _on_networks(groups(manifest.read(asked.out), asked.out), options), out


def _of_runs(options: argparse.Namespace) -> tuple[Priced, Path]:
    """Give runs that are there: by the label they have in their sweep, else by what they are."""
    labels: dict[str, SeedGroup] = {}
    for group in grouped_runs(open_runs(options.from_runs)):
        label = _label(group)
        labels[label if label not in labels else f"{label} ({group.letter})"] = group
    return _on_networks(labels, options), Path(options.out or ".")


def _on_networks(found: dict[str, SeedGroup], options: argparse.Namespace) -> Priced:
    """Price the same runs on every network that is asked for, or as they were recorded."""
    runs = [source.run for group in found.values() for source in group.counted]
    if not options.networks:
        clocks = sorted({str(run.attrs["clock"]) for run in runs})
        return {f"seconds {' and '.join(clocks)}": (found, _recorded)}
    step_s = options.step_time or step_seconds(runs)
    how = "as given" if options.step_time else "the median of the run that computed fastest"
    options.notes = [f"Seconds are modelled, with {1000 * step_s:.3g} ms for a local step ({how})."]

    def on(net: Network) -> Price:
        return lambda source: priced(source.run, net, step_s, options.trust)

    return {f"{name} (modelled)": (found, on(network(name))) for name in options.networks}


def _recorded(source: Source) -> RunCost:
    return as_recorded(source.run)


def _label(group: SeedGroup) -> str:
    folder = group.runs[0].folder
    try:
        names = {member.name: member.label for member in manifest.read(folder.parent)}
    except ConfigurationError:
        names = {}
    said = group.runs[0].run.attrs
    return names.get(folder.name) or f"{said['algorithm']}, {said['schedule']}"


def frontier(found: Priced, options: argparse.Namespace) -> Frontier:
    """Put every method on every network.

    Args:
        found: Name of a network -> the runs of each method there, and how they are priced.
        options: Of the command line.

    Raises:
        ConfigurationError: Nobody says which accuracy is the target.
    """
    labels = next(iter(found.values()))[0]
    first = next(iter(labels.values())).counted[0].run
    target = options.target or _target(str(first.attrs["config"]), options.trust)
    networks = {
        name: [point(label, group, price, target) for label, group in labels.items()]
        for name, (labels, price) in found.items()
    }
    count = max(len(group.counted) for group in labels.values())
    facts = [str(first.attrs["task"]), f"K = {first.K}", f"P = {first.P:,}"]
    facts += [f"{int(first.totals.steps):,} steps", f"{count} seed{'' if count == 1 else 's'}"]
    reached = (
        f"The target is a test accuracy of {target:.1%}, met at an evaluation of the mean model."
    )
    return Frontier(networks, facts, [reached, *getattr(options, "notes", [])])


def _target(config: str, trusted: list[str]) -> float:
    task = recorded(config, trusted).config.task
    if task.target is None:
        raise ConfigurationError(f"{type(task).__name__} has no target of its own: give --target")
    return task.target


if __name__ == "__main__":
    sys.exit(main())
