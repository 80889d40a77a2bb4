"""Answers as a table: for a terminal, as CSV with all digits, as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from hpc_localsgd.analysis.compare.export import markdown_table
from hpc_localsgd.analysis.text_tables import text_table, wrapped
from hpc_localsgd.commands.whatif.answers import Answer
from hpc_localsgd.commands.whatif.basis import Basis
from hpc_localsgd.commands.whatif.networks import RECORDED
from hpc_localsgd.cost.formatting import grouped, human_seconds, percent
from hpc_localsgd.trajectory.estimate import human_bytes
from hpc_localsgd.trajectory.safe_text import readable

COLUMNS = (
    "network",
    "K",
    "method",
    "schedule",
    "rounds",
    "sent",
    "computing",
    "waiting",
    "transferring",
    "total",
    "communication",
    "speed-up",
    "overlapped",
)
# By which the files are told.
HEADS = {"csv": "network,workers,method,schedule,", "md": f"| {' | '.join(COLUMNS)} |"}


def page(known: Basis, found: Sequence[Answer], width: int | None = None) -> str:
    """Lay out the answers for a terminal.

    Args:
        known: The run they are about.
        found: At least one.
        width: Characters of a line; None for no limit.
    """
    table = text_table(COLUMNS, [_row(a) for a in found], width=width, keys=4, left=4)
    head, foot = wrapped(about(known), width), wrapped(notes(known, found), width)
    return "\n".join([*head, "", table, "", *foot])


def about(known: Basis) -> list[str]:
    """Say in lines what the record has."""
    run, totals, times = known.run, known.run.totals, known.times
    names = (run.path.parent, run.attrs["algorithm"], run.attrs["schedule"])
    where, algorithm, schedule = (readable(str(name)) for name in names)
    head = (
        f"{where}: {run.K} workers, {algorithm}, {schedule}, {grouped(known.steps)} steps of "
        f"{_seconds(times.step_s, times.off * times.step_s)}, {grouped(run.P)} parameters"
    )
    clock = "modelled" if run.attrs["clock"] == "modelled" else "measured"
    recorded = (
        f"recorded, {grouped(totals.steps)} steps: computing {human_seconds(totals.compute_s)}, "
        f"waiting {human_seconds(totals.wait_s)}, transferring {human_seconds(totals.transfer_s)} "
        f"({clock}), sent {human_bytes(totals.payload_bytes)}"
    )
    return [head, recorded]


def notes(known: Basis, found: Sequence[Answer]) -> list[str]:
    """Say in sentences what the figures are and are not."""
    said = [
        "speed-up: over parallel SGD on the same network that overlaps nothing; overlapped: over "
        "parallel SGD that overlaps its all-reduce with as much of a step as can be.",
    ]
    if any(a.step_off or a.network_off for a in found):
        fits = any(a.network_off for a in found)
        also = ", and the error of the network's fit" if fits else ""
        why = f"from the spread of a step between parts of the run{also}"
        said.append(f"±: standard deviation, {why}.")
    if any(not a.network_off and a.planned.workers > 1 for a in found):
        said.append("A network that is named or typed has no error of its own: it is a promise.")
    if any(a.network.name == RECORDED for a in found):
        said.append(
            "recorded: fitted to exchanges of this size. A parallel phase takes as long a step as "
            "the run's, hidden behind backward passes or not; the all-reduce of parallel SGD is "
            "billed as if nothing hid it."
        )
    if known.run.attrs["clock"] == "modelled":
        said.append("The workers shared one process: who would wait for whom is not known.")
    return said


def _row(answer: Answer) -> list[str]:
    plan, K = answer.plan, answer.planned.workers
    alone = K == 1
    return [
        answer.network.name,
        grouped(K),
        answer.algorithm,
        repr(answer.planned.schedule),
        grouped(answer.rounds),
        human_bytes(plan.payload_bytes),
        human_seconds(plan.compute_s),
        human_seconds(answer.waiting_s),
        human_seconds(plan.exchange_s),
        _seconds(answer.total_s(), answer.off(answer.total_s)),
        _percent(answer.share(), answer.off(answer.share)),
        "-" if alone else _times(answer.speed_up(), answer.off(answer.speed_up)),
        "-" if alone else _times(answer.speed_up(hides=True), 0.0),
    ]


def _seconds(value: float, off: float) -> str:
    return human_seconds(value) + (f" ± {human_seconds(float(f'{off:.2g}'))}" if off else "")


def _percent(value: float, off: float) -> str:
    return percent(value) + (f" ± {percent(off)}" if off >= 5e-4 else "")


def _times(value: float, off: float) -> str:
    return f"{value:.2f}" + (f" ± {off:.2f}" if off >= 5e-3 else "")


def as_csv(found: Sequence[Answer]) -> str:
    """Write a row an answer, unrounded; what is not known is empty.

    Args:
        found: The answers.
    """
    rows = [_numbers(answer) for answer in found]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        known = {name: "" if _missing(value) else value for name, value in row.items()}
        writer.writerow(known)
    return out.getvalue()


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _numbers(answer: Answer) -> dict[str, object]:
    plan = answer.plan
    return {
        "network": answer.network.name,
        "workers": answer.planned.workers,
        "method": answer.algorithm,
        "schedule": repr(answer.planned.schedule),
        "steps": plan.steps,
        "rounds": answer.rounds,
        "sent_bytes": plan.payload_bytes,
        "parallel_sent_bytes": plan.parallel_bytes,
        "computing_s": plan.compute_s,
        "waiting_s": answer.waiting_s,
        "transferring_s": plan.exchange_s,
        "total_s": answer.total_s(),
        "total_off_s": answer.off(answer.total_s),
        "communication_share": answer.share(),
        "communication_share_off": answer.off(answer.share),
        "parallel_total_s": answer.parallel_s(),
        "parallel_overlapped_total_s": answer.parallel_s(hides=True),
        "speed_up": answer.speed_up(),
        "speed_up_off": answer.off(answer.speed_up),
        "speed_up_over_overlapped": answer.speed_up(hides=True),
    }


def as_markdown(known: Basis, found: Sequence[Answer]) -> str:
    """Write the table of the terminal, with what is said above and below it.

    Args:
        known: The run they are about.
        found: The answers.
    """
    table = markdown_table(list(COLUMNS), [_row(answer) for answer in found])
    return "\n\n".join([*about(known), table, *notes(known, found)]) + "\n"
