"""All that a plan says, gathered in one object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Any

import torch

from hpc_localsgd.commands.assembly.cadences import probes
from hpc_localsgd.commands.plan.job_limit import job_limit_s
from hpc_localsgd.commands.plan.plan_report import Memory, PlanReport
from hpc_localsgd.commands.plan.planned_run import PlannedRun, PlanOptions
from hpc_localsgd.commands.plan.rehearsal import Rehearsal
from hpc_localsgd.cost.advice import Advice, Circumstances, advise
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.cost.preview import Preview, preview
from hpc_localsgd.engine.optimizer import described
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.probes import Evaluation, Snapshots
from hpc_localsgd.schedules.time_limit import seconds_of
from hpc_localsgd.topology import Topology, gap
from hpc_localsgd.trajectory import DiskEstimate, disk_estimate
from hpc_localsgd.worlds.placement import Placement

MOST_SPECTRAL = 2048  # workers, whose eigenvalues take seconds, with the third power
MOST_MIXED = 8192  # workers: their matrix takes half a gigabyte, and seconds to build
MOST_ROUNDS = 3_000_000  # some ten seconds


def report(planned: PlannedRun, network: Network, options: PlanOptions) -> PlanReport:
    """Plan a run, with its exchanges rehearsed on this network."""
    check_patience(planned)
    rehearsal = Rehearsal(planned, network)
    step_s = math.nan if options.step_time is None else options.step_time
    plan = acted_out(planned, network, rehearsal, step_s)
    topology = getattr(planned.config.algorithm, "topology", None)
    given = Circumstances(
        K=planned.workers,
        time_limit_s=job_limit_s()
        if options.time_limit is None
        else seconds_of(options.time_limit),
        evaluate_every=_evaluate_every(planned),
        momentum=_momentum(rehearsal.optimizer),
        topology=repr(topology) if isinstance(topology, Topology) else "",
        gap=_gap(topology, planned.workers),
        parallel=planned.config.algorithm.sends_gradients,
        measured=planned.config.schedule.observes,
    )
    return PlanReport(
        planned=planned,
        plan=plan,
        network=network,
        optimizer=described(rehearsal.optimizer),
        memory=rehearsal.memory(),
        disk=_disk(planned, plan, rehearsal.memory()),
        topology=given.topology,
        gap=given.gap,
        time_limit_s=given.time_limit_s,
        parallel=given.parallel,
        advice=(
            *(Advice("given_twice", note) for note in planned.notes),
            *_of_ranks(planned.placement),
            *advise(plan, given),
        ),
    )


def _of_ranks(placement: Placement) -> Iterator[Advice]:
    """Say what it costs that some ranks host a worker more than others."""
    if placement.even:
        return
    K, n, most = placement.K, placement.n, placement.most
    evenly = [m for m in range(1, K + 1) if K % m == 0]
    fewer, more = max(m for m in evenly if m < n), min(m for m in evenly if m > n)
    yield Advice(
        "unequal_ranks",
        f"{K} workers are {placement}: a step takes as long as that of {most} workers, and "
        f"{100 * placement.idle:.2g} % of the ranks' time is waiting for it; {fewer} or {more} "
        "ranks would have equal numbers",
    )


def _gap(topology: Any, K: int) -> float:
    """Return the spectral gap; NaN without a topology, or where it would take minutes."""
    if not isinstance(topology, Topology) or K > MOST_SPECTRAL:
        return math.nan
    return gap(topology, K)


def check_patience(planned: PlannedRun) -> None:
    """Check, by a sample of their lengths, that there are not too many rounds to plan singly.

    Raises:
        ConfigurationError: There are.
    """
    topology, K = getattr(planned.config.algorithm, "topology", None), planned.workers
    if isinstance(topology, Topology) and K > MOST_MIXED:
        raise ConfigurationError(
            f"the mixing matrix of {K} workers takes {8 * K**2 / 1e9:.0f} GB: with a topology, "
            f"plan up to {MOST_MIXED} --workers"
        )
    steps, looks = planned.steps, 1000
    lengths = (planned.schedule(t, planned.rate(t)) for t in range(0, steps, -(-steps // looks)))
    expected = steps * mean(1 / min(H, steps) for H in lengths)
    if expected > MOST_ROUNDS:
        raise ConfigurationError(
            f"a plan looks at every exchange, and these are about {expected:.2g} (at most "
            f"{MOST_ROUNDS:,}): type fewer --steps, or longer rounds"
        )


def acted_out(
    planned: PlannedRun, network: Network, rehearsal: Rehearsal, step_s: float
) -> Preview:
    """Return a run seen in advance, its exchanges acted out one after another.

    Args:
        planned: The run.
        network: Between its workers.
        rehearsal: Of this run on this network, new.
        step_s: Seconds of a local step; NaN if not known.
    """
    K, model = planned.workers, planned.model
    return preview(
        planned.schedule,
        planned.rate,
        planned.steps,
        rehearsal.payload,
        exchange_s=rehearsal,
        parallel_bytes=model.nbytes if K > 1 else 0,
        parallel_s=network.mean_s(K, model.nbytes),
        step_s=step_s,
        steps_per_epoch=planned.units.steps_per_epoch,
    )


def _momentum(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the momentum of SGD; None for other optimisers."""
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    return float(optimizer.param_groups[0]["momentum"])


def _evaluate_every(planned: PlannedRun) -> int:
    found, _ = probes(planned.config, planned.units)
    return next((probe.every for probe in found if isinstance(probe, Evaluation)), 0)


def _disk(planned: PlannedRun, plan: Preview, memory: Memory) -> DiskEstimate:
    """Estimate the disk use of rounds, losses, evaluations, snapshots and checkpoints."""
    config, K = planned.config, planned.workers
    found, spread = probes(config, planned.units)
    values, snapshots = plan.rounds * K + _times(spread.every, plan), 0
    for probe in found:
        if isinstance(probe, Evaluation):
            values += _times(probe.every, plan) * 2 * (1 + K * probe.per_worker)
        elif isinstance(probe, Snapshots):
            snapshots += _times(probe.every, plan)
    estimate = disk_estimate(
        K,
        planned.model.P,
        rounds=plan.rounds,
        series_values=values,
        snapshots=snapshots,
        dtype=config.snapshot_dtype,
        workers=config.snapshot_workers,
    )
    buffers = planned.buffers * planned.model.itemsize
    kept = config.checkpoint_keep
    if config.checkpoint_every in (0, "0"):
        kept = 1  # the last one alone
    return replace(estimate, checkpoints_bytes=round(kept * K * (memory.checkpointed + buffers)))


def _times(every: int, plan: Preview) -> int:
    """Return how often something with this cadence happens, step 0 and the end included."""
    return -(-plan.steps // every) + 1 if every else 0
