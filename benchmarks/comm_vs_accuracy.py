"""Accuracy against communication: a grid of methods on one task, priced on networks.

    python benchmarks/comm_vs_accuracy.py benchmarks/frontier/quick.yaml --networks 1GbE 10GbE
    python benchmarks/comm_vs_accuracy.py --from-runs runs/a runs/b ...

Does the runs of the grid (`python -m hpc_localsgd sweep`; what is complete is kept), and shows for
each method the test accuracy of the mean model against the bytes a worker sent, its seconds of
communication and all seconds of training, with what it took to come to the target. Writes a figure
(PNG, PDF) and the table (CSV, Markdown, LaTeX) into the folder of the sweep or --out; `--report`
writes benchmarks/reports/comm_vs_accuracy.md.

Seconds on a named network are modelled, from one training in one process: the alpha-beta model of
the network, and one time of a step for all methods, the fastest run's median or --step-time.
Without --networks they are those of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frontier import draw, tables
from frontier.points import Point, Price, point
from frontier.pricing import as_recorded, priced, step_seconds
from side_by_side import REPORTS, circumstances

from hpc_localsgd.analysis.compare import Group, grouped_runs
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands.configuration.config import recorded
from hpc_localsgd.commands.sweep import main as sweep
from hpc_localsgd.commands.sweep import request, written
from hpc_localsgd.commands.sweep.table import groups
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.types import ConfigurationError

NAME = "comm_vs_accuracy"


@dataclass(frozen=True)
class Frontier:
    """Methods on networks.

    Attributes:
        networks: Name of a network -> the methods on it, the same ones everywhere.
        facts: What there is to say of the runs, each a few words.
        notes: What there is to say of the numbers, a sentence each.
    """

    networks: dict[str, list[Point]]
    facts: list[str]
    notes: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs, and show what came of them; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        if bool(options.grid) == bool(options.from_runs):
            raise ConfigurationError("give the file of a grid, or --from-runs RUN ...")
        found, out = _of_runs(options) if options.from_runs else _of_a_grid(options)
        if not found:
            return 1
        made = frontier(found, options)
        files = write(made, out, options.floor)
        if options.report:
            files += report(made, options.floor)
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
    made.add_argument("--step-time", type=float, help="seconds of a local step, for --networks")
    made.add_argument("--target", type=float, help="test accuracy; default: that of the task")
    made.add_argument("--floor", type=float, default=0.0, help="least accuracy that is drawn")
    made.add_argument("--jobs", default="1", help="runs at a time")
    made.add_argument("--out", help="where figure and table go")
    made.add_argument("--report", action="store_true", help=f"write {REPORTS.name}/{NAME}.md")
    made.add_argument("--trust", action="append", default=[], help="as for the other commands")
    return made


def _of_a_grid(options: argparse.Namespace) -> tuple[dict[str, Group], Path]:
    """Do the runs of a grid that are left, and give them all."""
    asked = request.request(request.read(options.grid), {})
    if sweep([options.grid, "--jobs", options.jobs]) not in (0, 3):  # 3: some diverged
        return {}, asked.out
    return groups(written.read(asked.out), asked.out), Path(options.out or asked.out)


def _of_runs(options: argparse.Namespace) -> tuple[dict[str, Group], Path]:
    """Give runs that are there: by the label they have in their sweep, else by what they are."""
    found = grouped_runs(open_runs(options.from_runs))
    labels: dict[str, Group] = {}
    for group in found:
        label = _label(group)
        labels[label if label not in labels else f"{label} ({group.letter})"] = group
    return labels, Path(options.out or ".")


def _label(group: Group) -> str:
    folder = group.runs[0].folder
    try:
        names = {member.name: member.label for member in written.read(folder.parent)}
    except ConfigurationError:
        names = {}
    said = group.runs[0].run.attrs
    return names.get(folder.name) or f"{said['algorithm']}, {said['schedule']}"


def frontier(found: dict[str, Group], options: argparse.Namespace) -> Frontier:
    """Put every method on every network.

    Args:
        found: Label of a method -> its runs.
        options: Of the command line.

    Raises:
        ConfigurationError: Nobody says which accuracy is the target.
    """
    runs = [source.run for group in found.values() for source in group.counted]
    target = options.target or _target(str(runs[0].attrs["config"]), options.trust)
    notes = [
        f"The target is a test accuracy of {target:.1%}, met at an evaluation of the mean model."
    ]
    names = options.networks
    prices: dict[str, Price] = {}
    if names:
        step_s = options.step_time or step_seconds(runs)
        how = "as given" if options.step_time else "the median of the run that computed fastest"
        notes.append(f"Seconds are modelled, with {1000 * step_s:.3g} ms for a local step ({how}).")
        for name in names:
            net = network(name)
            prices[f"{name} (modelled)"] = lambda s, net=net: priced(
                s.run, net, step_s, options.trust
            )
    else:
        clocks = sorted({str(run.attrs["clock"]) for run in runs})
        prices[f"seconds {' and '.join(clocks)}"] = lambda source: as_recorded(source.run)
    networks = {
        name: [point(label, group, price, target) for label, group in found.items()]
        for name, price in prices.items()
    }
    first, seeds = runs[0], max(len(group.counted) for group in found.values())
    facts = [str(first.attrs["task"]), f"K = {first.K}", f"P = {first.P:,}"]
    facts += [f"{int(first.totals.steps):,} steps", f"{seeds} seeds"]
    return Frontier(networks, facts, notes)


def _target(config: str, trusted: list[str]) -> float:
    task = recorded(config, trusted).config.task
    if task.target is None:
        raise ConfigurationError(f"{type(task).__name__} has no target of its own: give --target")
    return task.target


def write(made: Frontier, out: Path, floor: float, name: str = "frontier") -> list[Path]:
    """Write figure and table; gives the files.

    Args:
        made: What they show.
        out: Folder, made if missing.
        floor: Least accuracy that is drawn.
        name: Of the files.
    """
    import matplotlib as mpl

    from hpc_localsgd.analysis.style import RC

    out.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(RC):
        figure = draw.draw(made.networks, made.facts, floor)
        for suffix in ("png", "pdf"):
            files.append(out / f"{name}.{suffix}")
            figure.savefig(files[-1])
    for suffix, text in (
        ("csv", tables.as_csv(made.networks)),
        ("md", tables.as_markdown(made.networks)),
        ("tex", tables.as_latex(made.networks)),
    ):
        files.append(out / f"{name}.{suffix}")
        files[-1].write_text(text, encoding="utf-8")
    return files


def report(made: Frontier, floor: float) -> list[Path]:
    """Write the report, its figure and its table beside it; gives the files.

    Args:
        made: What it shows.
        floor: Least accuracy that is drawn.
    """
    files = [f for f in write(made, REPORTS, floor, NAME) if f.suffix in (".png", ".csv")]
    for other in (".pdf", ".md", ".tex"):
        (REPORTS / f"{NAME}{other}").unlink()
    about = "\n".join(f"- {key}: {value}" for key, value in circumstances().items())
    parts = [
        "# Accuracy against communication",
        f"{', '.join(made.facts)}. Accuracy is of the mean model on the test set, ± the larger of "
        "the deviation over seeds and the statistical error of the test set; in bold: nothing here "
        "is both cheaper and better by more than that.",
        f"![Accuracy against bytes and seconds]({NAME}.png)",
        tables.as_markdown(made.networks).rstrip(),
        "\n".join(made.notes),
        f"## Circumstances\n\n{about}",
    ]
    page = REPORTS / f"{NAME}.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [page, *files]


if __name__ == "__main__":
    sys.exit(main())
