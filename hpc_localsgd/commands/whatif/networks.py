"""The networks that are asked about: by name, typed, from a file, or the one of the run itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.analysis.curves import mean_over_rest
from hpc_localsgd.commands.plan.rehearsal import Rehearsal
from hpc_localsgd.commands.plan.report import acted_out, check_patience
from hpc_localsgd.commands.whatif.basis import Basis
from hpc_localsgd.cost.cost_model import Cost, Network, Piece
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.cost.preview import Preview
from hpc_localsgd.cost.round_runs import Stretch
from hpc_localsgd.cost.step_times import spread
from hpc_localsgd.errors import ConfigurationError

RECORDED = "recorded"
KINDS = ("mean", "compressed mean", "mix", "gather")


@dataclass(frozen=True)
class Price:
    """What exchanges of one kind took in a run.

    Attributes:
        share: Of what the network bills for them.
        off: Relative deviation.
    """

    share: float
    off: float


@dataclass(frozen=True)
class RecordedNetwork(Network):
    """The network of a run, as its own exchanges were measured.

    Attributes:
        method: The algorithm of the run.
        parallel: The exchanges of its parallel phase, which may average gradients behind the
            backward pass; None where the run had none.
    """

    method: type | None = None
    parallel: Price | None = None

    def billed(self, plan: Preview, algorithm: Algorithm) -> tuple[Preview, float]:
        """Return a plan with its parallel phase at the price of the run's, and its deviation.

        Args:
            plan: Billed at one price.
            algorithm: Of the plan: another than the run's has no such phase on record.
        """
        off, price = self.costs["mean"].off, self.parallel
        if price is None or not _parallel(plan) or type(algorithm) is not self.method:
            return plan, off
        first, *others = plan.stretches
        first = replace(first, exchange_s=price.share * first.exchange_s)
        rest_s = sum(stretch.exchange_s for stretch in others)
        total_s = first.exchange_s + rest_s
        deviation_s = math.hypot(price.off * first.exchange_s, off * rest_s)
        plan = replace(plan, stretches=(first, *others), exchange_s=total_s)
        return plan, deviation_s / total_s if total_s else 0.0


def network_of(known: Basis, name: str) -> Network:
    """Return a network by name, typed, or from a file; `recorded` is that of the run.

    Raises:
        ConfigurationError: There is none; or what the run recorded does not tell it.
    """
    if name != RECORDED:
        return network(name)
    if known.run.attrs["clock"] == "modelled":
        return network(known.own.config.fabric)
    return _fitted(known)


def _fitted(known: Basis) -> RecordedNetwork:
    """Return the network that takes as long for the run's exchanges as was measured.

    They are all about as long, so that latency and rate cannot be told apart: all is in the rate,
    and right for vectors of this size. The rate is that of the rounds after the parallel phase, if
    there are any: what that phase hid behind the backward pass was not measured.
    """
    planned = known.as_it_was(known.planned(known.own, known.run.K))
    check_patience(planned)
    a_byte_a_second = Network("", 0.0, 1.0)
    per_byte = Rehearsal(planned, a_byte_a_second)
    plan = acted_out(planned, a_byte_a_second, per_byte, math.nan)
    talked, algorithm = mean_over_rest(known.run.rounds.transfer_s), planned.config.algorithm
    begin = np.cumprod(known.run.rounds.local_steps == 1).astype(bool)
    alone = bool(begin.all())  # nothing but a parallel phase
    hides = type(algorithm).in_backward is not Algorithm.in_backward
    each_s, off = _median(talked if alone else talked[~begin])
    sent_bytes = _mean_s(plan.stretches if alone else _after_parallel(plan))
    hidden = per_byte.hides or (alone and hides)
    if hidden or not sent_bytes or not each_s > 0:
        why = "hid exchanges behind steps" if hidden else "recorded no seconds of exchanges"
        raise ConfigurationError(
            f"this run {why}, so its record does not tell the network: give --fabric (a name, "
            '"50us,117MB/s", or the file of benchmarks/collectives.py)'
        )
    first_s, first_off = _median(talked[begin])
    billed_s = _mean_s(_parallel(plan)) * each_s / sent_bytes
    cost = Cost((Piece(math.inf, 0.0, each_s / sent_bytes),), off=off)
    return RecordedNetwork(
        name=RECORDED,
        latency_s=0.0,
        bytes_per_s=sent_bytes / each_s,
        costs=dict.fromkeys(KINDS, cost),
        method=type(algorithm),
        parallel=Price(first_s / billed_s, first_off) if billed_s and first_s >= 0 else None,
    )


def _parallel(plan: Preview) -> tuple[Stretch, ...]:
    """Return the rounds of one step at the begin of a run, the parallel phase of Post-local SGD."""
    return tuple(s for s in plan.stretches[:1] if s.H == 1)


def _after_parallel(plan: Preview) -> tuple[Stretch, ...]:
    return plan.stretches[len(_parallel(plan)) :]


def _mean_s(stretches: Sequence[Stretch]) -> float:
    """Return the seconds of the exchanges of a round."""
    return sum(s.exchange_s for s in stretches) / max(1, sum(s.rounds for s in stretches))


def _median(talked: np.ndarray) -> tuple[float, float]:
    """Return the seconds of the exchanges of a round, and how far parts of the run are off.

    Args:
        talked: ``[S]`` of each round; NaN where unknown, and NaN is returned where all are.
    """
    recorded = talked[np.isfinite(talked)]
    return spread(recorded, np.ones(len(recorded))) if len(recorded) else (math.nan, 0.0)
