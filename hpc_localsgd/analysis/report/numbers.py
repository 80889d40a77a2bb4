"""The numbers of a report: the run in a few tiles, and the plan against what happened."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpc_localsgd.analysis import curves
from hpc_localsgd.analysis.costs import averages_every_step, round_s
from hpc_localsgd.analysis.planned import Planned, steps_per_epoch
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.cost.formatting import grouped, human_seconds
from hpc_localsgd.trajectory import Trajectory, TrajectoryError
from hpc_localsgd.trajectory.estimate import human_bytes

DTYPE_BYTES = {"float64": 8, "float32": 4}


def tiles_of(source: Source) -> list[tuple[str, str]]:
    """Return (number, words) of the most important facts."""
    run, sums = source.run, source.run.totals
    shown = []
    score = curves.series_or_none(run, curves.ACCURACY)
    if score is not None:
        best = f"best {100 * score.value.max():.2f} %"
        words = f"test accuracy of the mean model, {best}"
        shown.append((f"{100 * score.value[-1]:.2f} %", words))
    loss = curves.series_or_none(run, curves.TEST_LOSS)
    if loss is not None:
        shown.append((f"{loss.value[-1]:.4g}", "test loss of the mean model"))
    if sums.steps:
        shown.append(_exchanges(run))
    parallel = parallel_bytes(run, sums.steps)
    if run.K > 1 and sums.payload_bytes > 0:
        words = "sent by a worker"
        if parallel:
            words += f", {_percent(sums.payload_bytes, parallel)} of parallel SGD's"
        shown.append((human_bytes(sums.payload_bytes), words))
    seconds = float(round_s(run).sum())
    if seconds > 0:
        parts = [sums.compute_s, sums.wait_s, sums.transfer_s]
        known = [0.0 if math.isnan(part) else part for part in parts]
        total = sum(known) or 1.0
        shares = (_percent(part, total) for part in known)
        words = "{} computing, {} waiting, {} transferring".format(*shares)
        clock = ", communication modelled" if run.attrs["clock"] == "modelled" else ""
        shown.append((human_seconds(seconds), f"of training: {words}{clock}"))
    if run.attrs["wall_s"] > 0:  # NaN where the record does not tell
        shown.append((human_seconds(run.attrs["wall_s"]), "wall time, all included"))
    return shown


def _exchanges(run: Trajectory) -> tuple[str, str]:
    rounds, steps = run.totals.rounds, run.totals.steps
    if averages_every_step(run):
        return grouped(steps), "averages of gradients, one a step"
    return grouped(rounds), f"rounds in {grouped(steps)} steps, {_percent(rounds, steps)}"


def plan_rows(source: Source) -> list[tuple[str, str, str, str]]:
    """Return rows (quantity, planned, happened, share); none where there is no plan."""
    if isinstance(source.plan, str):
        return []
    run, plan = source.run, source.plan
    an_epoch = steps_per_epoch(run)
    done, rounds = source.done, run.rounds
    rows = [_row("steps", plan.steps, done)]
    if an_epoch > 0:
        planned, happened = (f"{steps / an_epoch:.4g}" for steps in (plan.steps, done))
        rows.append(("epochs", planned, happened, _percent(done, plan.steps)))
    rows.append(_row("rounds", len(plan.ends), len(rounds)))
    if done < plan.steps:
        rows.append(_row("rounds up to there", plan.until(done), len(rounds)))
    longest = int(rounds.local_steps.max()) if len(rounds) else 0
    rows.append(_row("longest round, steps", int(plan.local_steps.max()), longest))
    if run.K > 1:
        rows += _bytes_rows(run, plan)
    return rows


def _bytes_rows(run: Trajectory, plan: Planned) -> list[tuple[str, str, str, str]]:
    sent = run.totals.payload_bytes
    rows = []
    wanted = planned_bytes(run, plan)
    if wanted > 0:
        share = _percent(sent, wanted)
        rows.append(("sent by a worker", human_bytes(wanted), human_bytes(sent), share))
    parallel = parallel_bytes(run, plan.steps), parallel_bytes(run, run.totals.steps)
    if parallel[0]:
        words = "parallel SGD would send"
        rows.append((words, human_bytes(parallel[0]), human_bytes(parallel[1]), ""))
    return rows


def planned_bytes(run: Trajectory, plan: Planned) -> float:
    """Return the bytes a worker sends in the planned rounds, at the recorded rate; NaN if unknown.

    A round of a length that was never recorded is taken at the bytes of the recorded rounds of the
    same kind (of one step, or of several).

    Args:
        run: The run.
        plan: Its plan.
    """
    recorded = curves.mean_over_rest(run.rounds.payload_bytes)
    H = run.rounds.local_steps
    kinds = {False: recorded[H == 1], True: recorded[H > 1]}
    total = 0.0
    for length, count in zip(*np.unique(plan.local_steps, return_counts=True), strict=True):
        same = recorded[length == H]
        similar = same if len(same) else kinds[bool(length > 1)]
        each = float(np.mean(similar)) if len(similar) else math.nan
        total += each * int(count)
    return total


def parallel_bytes(run: Trajectory, steps: int) -> float:
    """Return the bytes a worker of parallel SGD would send: a gradient a step, uncompressed.

    Args:
        run: The run.
        steps: How many.
    """
    dtype = str(_config(run).get("dtype", "float32"))
    return float(run.P * DTYPE_BYTES.get(dtype, 4) * steps) if run.K > 1 else 0.0


def settings_of(source: Source) -> list[tuple[str, str]]:
    """Return (name, value) of the settings that readers ask about."""
    run, config, a = source.run, _config(source.run), source.run.attrs
    rows = [("task", str(a["task"])), ("algorithm", str(a["algorithm"]))]
    rows.append(("schedule", str(a["schedule"])))
    for name in ("rate", "gradient", "optimizer", "partition", "label_noise_from"):
        if name in config:
            rows.append((name, said(config[name])))
    if a["begins_from"]:
        rows.append(("begins from", str(a["begins_from"])))
    batch = config.get("batch_per_worker")
    workers = f"{run.K} in {a['world']}"
    rows.append(("workers", workers))
    if batch:
        rows.append(("batch", f"{batch} a worker, {run.K * int(batch)} a step"))
    rows.append(("parameters", f"{run.P:,}, {config.get('dtype', 'dtype unknown')}"))
    rows.append(("seed", str(a["seed"])))
    begun, ended = (str(a.get(name) or "") for name in ("created", "closed"))
    when = f"from {begun} to {ended}" if ended else f"from {begun} on, not closed"
    rows.append(("recorded", f"{when}, by version {a['package_version']}"))
    if a.get("git"):
        rows.append(("commit", str(a["git"])))
    slurm = [f"{k.removeprefix('slurm_')} {v}" for k, v in a.items() if k.startswith("slurm_")]
    if slurm:
        rows.append(("Slurm", ", ".join(slurm)))
    rows.append(("file", str(run.path)))
    return rows


def said(value: Any) -> str:
    """Format a part of the configuration as one would say it: ``cosine(lr=0.1, warmup=5%)``."""
    if not isinstance(value, dict) or "class_path" not in value:
        return str(value)
    name = str(value["class_path"]).rpartition(".")[2]
    inside = (value.get("init_args") or {}).items()
    given = [f"{k}={said(v)}" for k, v in inside if v is not None and v is not False]
    return f"{name}({', '.join(given)})"


def _config(run: Trajectory) -> dict[str, Any]:
    try:
        return run.config
    except TrajectoryError:
        return {}


def _row(name: str, planned: int, happened: int) -> tuple[str, str, str, str]:
    return name, grouped(planned), grouped(happened), _percent(happened, planned)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else ""
