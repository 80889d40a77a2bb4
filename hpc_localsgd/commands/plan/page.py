"""A plan for a reader, on one page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hpc_localsgd.commands.plan.plan_report import PlanReport
from hpc_localsgd.commands.rich_text import as_text, page_width
from hpc_localsgd.cost.formatting import grouped, human_seconds
from hpc_localsgd.cost.preview import Preview
from hpc_localsgd.cost.round_runs import Stretch
from hpc_localsgd.schedules.base import Round
from hpc_localsgd.trajectory.estimate import human_bytes

BESIDE_BARS = 22  # columns: the margin, and the name of a curve
BARS = "▁▂▃▄▅▆▇█"
FEW = 8  # stretches that are all shown; more are gathered by the power of two of H


def page(report: PlanReport, terminal: int | None = None) -> str:
    """Format the report as text, in colours for a terminal of so many columns."""
    width = page_width(terminal)
    return as_text(Group(*_sections(report, width)), width, coloured=terminal is not None)


def _sections(report: PlanReport, columns: int) -> Iterator[RenderableType]:
    sections = {
        "Run": _run(report),
        "Rounds": _rounds(report, columns),
        "Cost of a worker": _cost(report),
        "Take note": _advice(report),
    }
    for title, body in sections.items():
        if body is not None:
            yield Text(f"\n{title}\n", style="bold")
            yield Padding(body, (0, 0, 0, 2))


def _run(report: PlanReport) -> RenderableType:
    planned, plan, config = report.planned, report.plan, report.planned.config
    table = _facts()
    P, samples = grouped(planned.model.P), grouped(planned.samples)
    table.add_row("model", f"{P} parameters, {human_bytes(planned.model.nbytes)} a copy")
    absent = " (not found here: the published size)" if planned.stand_in else ""
    epoch = f"{_number(plan.steps_per_epoch)} steps an epoch"
    table.add_row("data", f"{samples} samples{absent}, {epoch}")
    table.add_row("length", f"{grouped(plan.steps)} steps = {_epochs(plan, plan.steps)}")
    batch = config.batch_per_worker
    total = f"{grouped(planned.workers * batch)} samples per step"
    workers = f"{planned.workers} x {batch} samples = {total}" if planned.workers > 1 else total
    table.add_row("workers", f"{planned.workers}: {workers}" if planned.workers == 1 else workers)
    if planned.placement.n > 1:
        table.add_row("ranks", f"{planned.placement.n}: workers are {planned.placement}")
    table.add_row("algorithm", str(config.algorithm))
    table.add_row("schedule", repr(planned.schedule))
    table.add_row("optimiser", report.optimizer)
    table.add_row("learning rate", repr(planned.rate))
    if report.topology:
        gap = "not computed" if math.isnan(report.gap) else f"{report.gap:.4g} a round"
        table.add_row("spectral gap", f"{gap} ({report.topology})")
    return table


def _rounds(report: PlanReport, columns: int) -> RenderableType:
    plan = report.plan
    facts = _facts()
    percent = 100 * plan.rounds / plan.steps
    facts.add_row(
        "rounds", f"{grouped(plan.rounds)} for {grouped(plan.steps)} steps ({percent:.3g} %)"
    )
    if report.parallel and plan.longest.H > 1:
        facts.add_row("", "allreduce averages the gradients of every step all the same")
    if plan.shortest.H < plan.longest.H:
        facts.add_row("shortest round", _where(plan, plan.shortest))
        facts.add_row("longest round", _where(plan, plan.longest))
    facts.add_row("last round", _where(plan, plan.last) + _cut(plan))
    return Group(facts, Text(), *_curves(plan, columns - BESIDE_BARS), _stretches(plan))


def _cut(plan: Preview) -> str:
    """Say what the end of the run does to the last round."""
    if not plan.forced:
        return ""
    return f", cut from {grouped(plan.asked)} by the end" if plan.asked <= plan.steps else ", cut"


def _curves(plan: Preview, most: int) -> Iterator[RenderableType]:
    """Yield the learning rate and H along the run, where they change, in `most` bars or fewer."""
    shown = [plan.curve[i * len(plan.curve) // most] for i in range(most)]
    if len(plan.curve) <= most:
        shown = list(plan.curve)
    curves = {
        "learning rate": [lr for _, lr, _ in shown],
        "H, log scale": [math.log(H) for _, _, H in shown],
    }
    table = _facts()
    for name, values in curves.items():
        if min(values) < max(values):
            table.add_row(name, _sparkline(values))
    if table.row_count:
        yield from (table, Text())


def _stretches(plan: Preview) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("from step", "epoch", "learning rate", "H", "rounds", "sent"):
        table.add_column(name, justify="right", no_wrap=True)
    for together in _gathered(plan.stretches):
        first, last = together[0], together[-1]
        low, high = min(s.H for s in together), max(s.H for s in together)
        table.add_row(
            grouped(first.begin),
            _number(plan.epochs(first.begin)),
            _way(first.lr_first, max(s.lr_high for s in together), last.lr_last),
            grouped(low) if low == high else f"{grouped(low)} to {grouped(high)}",
            grouped(sum(s.rounds for s in together)),
            human_bytes(sum(s.payload_bytes for s in together)),
        )
    return table


def _gathered(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Return stretches singly if few, else grouped by H between the same powers of 2."""
    if len(stretches) <= FEW:
        return [[stretch] for stretch in stretches]
    return [list(same) for _, same in groupby(stretches, key=lambda s: s.H.bit_length())]


def _way(first: float, high: float, last: float) -> str:
    """Format ``0 to 0.1, then to 0.05`` (first, highest, last), each number once."""
    known = [lr for lr, _ in groupby(f"{lr:.3g}" for lr in (first, high, last))]
    return ", then to ".join([" to ".join(known[:2]), *known[2:]])


def _cost(report: PlanReport) -> RenderableType:
    plan, network = report.plan, report.network
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    for name in ("this run", "parallel SGD", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    sent, would = human_bytes(plan.payload_bytes), human_bytes(plan.parallel_bytes)
    table.add_row("sent", sent, would, _ratio(plan.payload_bytes, plan.parallel_bytes))
    if plan.busiest_bytes > plan.payload_bytes:
        busiest = human_bytes(plan.busiest_bytes)
        ratio = _ratio(plan.busiest_bytes, plan.parallel_bytes)
        table.add_row("sent by the busiest worker", busiest, would, ratio)
    _add_seconds(table, f"transferring, {network.name}", plan.exchange_s, plan.parallel_s)
    if not math.isnan(plan.step_s):
        computing = plan.compute_s
        _add_seconds(table, "computing", computing, computing)
        _add_seconds(table, "total", plan.total_s, computing + plan.parallel_s)
    facts = _facts()
    memory = report.memory
    without = ", activations not counted" if math.isnan(memory.activations) else ""
    facts.add_row("memory", f"{human_bytes(memory.total)}{without}:")
    parts = ((name, human_bytes(size)) for name, size in asdict(memory).items() if size > 0)
    facts.add_row("", ", ".join(f"{name} {size}" for name, size in parts))
    facts.add_row("disk", str(report.disk).replace(" on disk", ""))
    facts.add_row(
        "network",
        f"{network.name}: {human_seconds(network.latency_s)} a message, "
        f"{human_bytes(network.bytes_per_s)}/s; predictions, nothing overlapped",
    )
    if not network.shared.unlimited:
        facts.add_row("", str(network.shared))
    if not math.isnan(report.time_limit_s):
        limit = "none" if math.isinf(report.time_limit_s) else human_seconds(report.time_limit_s)
        facts.add_row("time limit", limit)
    return Group(table, Text(), facts)


def _advice(report: PlanReport) -> RenderableType | None:
    if not report.advice:
        return None
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for advice in report.advice:
        table.add_row(Text("-", style="yellow"), advice.text)
    return table


def _facts() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True, min_width=14)
    table.add_column(overflow="fold")
    return table


def _add_seconds(table: Table, name: str, ours: float, parallel: float) -> None:
    table.add_row(name, human_seconds(ours), human_seconds(parallel), _ratio(ours, parallel))


def _ratio(ours: float, parallel: float) -> str:
    return f"{100 * ours / parallel:.3g} %" if parallel else ""


def _where(plan: Preview, r: Round) -> str:
    steps = "1 step" if r.H == 1 else f"{grouped(r.H)} steps"
    if r.H >= plan.steps_per_epoch:
        steps += f" = {_epochs(plan, r.H)}"
    if not math.isnan(plan.step_s):
        steps += f", {human_seconds(r.H * plan.step_s)}"
    return f"{steps}, from step {grouped(r.begin)}"


def _epochs(plan: Preview, steps: int) -> str:
    return f"{_number(plan.epochs(steps))} epochs"


def _number(value: float) -> str:
    """Format a number with three or four digits, whole numbers whole."""
    return grouped(value) if value >= 1000 or value == round(value) else f"{value:.3g}"


def _sparkline(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    top = len(BARS) - 1
    return "".join(BARS[round(top * (value - low) / (high - low))] for value in values)
