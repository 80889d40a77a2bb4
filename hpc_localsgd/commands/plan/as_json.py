"""A plan for machines: JSON with keys that stay. What is not known is null."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpc_localsgd.cost.preview import Preview
from hpc_localsgd.cost.round_runs import Stretch
from hpc_localsgd.schedules.base import Round

if TYPE_CHECKING:
    from hpc_localsgd.commands.plan.plan_report import PlanReport


def as_json(report: PlanReport) -> str:
    """Return the report as JSON. Keys are only ever added; what is unknown is null."""
    planned, plan = report.planned, report.plan
    content = {
        "run": {
            "task": repr(planned.config.task),
            "algorithm": repr(planned.config.algorithm),
            "schedule": repr(planned.schedule),
            "optimizer": report.optimizer,
            "rate": repr(planned.rate),
            "workers": planned.workers,
            "ranks": planned.placement.n,
            "waiting_of_unequal_ranks": planned.placement.idle,
            "parameters": planned.model.P,
            "samples": planned.samples,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
        },
        "rounds": {
            "count": plan.rounds,
            "shortest": _round(plan, plan.shortest),
            "longest": _round(plan, plan.longest),
            "last": _round(plan, plan.last),
            "last_is_forced": plan.forced,
            "last_asked_steps": plan.asked,
            "stretches": [_stretch(stretch) for stretch in plan.stretches],
        },
        "traffic": {
            "payload_bytes_per_worker": plan.payload_bytes,
            "payload_bytes_busiest_worker": plan.busiest_bytes,
            "payload_bytes_per_round": plan.payload_bytes / plan.rounds,
            "parallel_sgd_bytes_per_worker": plan.parallel_bytes,
            "share_of_parallel_sgd": plan.share,
        },
        "seconds": {
            "network": asdict(report.network),
            "communication_predicted": plan.exchange_s,
            "communication_parallel_sgd": plan.parallel_s,
            "step": plan.step_s,
            "computation": plan.compute_s,
            "total_predicted": plan.total_s,
            "time_limit": report.time_limit_s,
        },
        "topology": {"name": report.topology or None, "spectral_gap": report.gap},
        "memory_bytes_per_worker": asdict(report.memory),
        "disk_bytes": asdict(report.disk) | {"total_bytes": report.disk.total_bytes},
        "warnings": [asdict(advice) for advice in report.advice],
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _round(plan: Preview, r: Round) -> dict[str, float]:
    return {
        "begin": r.begin,
        "end": r.end,
        "steps": r.H,
        "epochs": plan.epochs(r.H),
        "seconds": r.H * plan.step_s,
        "lr": r.lr,
    }


def _stretch(stretch: Stretch) -> dict[str, float]:
    return {
        "first_sync": stretch.syncs[0],
        "last_sync": stretch.syncs[-1],
        "every": stretch.H,
        "rounds": stretch.rounds,
        "lr_first": stretch.lr_first,
        "lr_last": stretch.lr_last,
        "lr_high": stretch.lr_high,
        "payload_bytes": stretch.payload_bytes,
        "communication_predicted": stretch.exchange_s,
    }


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
