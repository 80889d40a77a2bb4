"""The networks that are asked about: by name, typed, from a file, or the one of the run itself."""

from __future__ import annotations

import math

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.analysis.curves import mean_over_rest
from hpc_localsgd.commands.plan.rehearsal import Rehearsal
from hpc_localsgd.commands.plan.report import acted_out, check_patience
from hpc_localsgd.commands.whatif.basis import Basis
from hpc_localsgd.cost.cost_model import Cost, Network, Piece
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.cost.step_times import spread
from hpc_localsgd.errors import ConfigurationError

RECORDED = "recorded"
KINDS = ("mean", "compressed mean", "mix", "gather")


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


def _fitted(known: Basis) -> Network:
    """Return the network that takes as long for the run's exchanges as was measured.

    They are all about as long, so that latency and rate cannot be told apart: all is in the rate,
    and right for vectors of this size. Rounds of one step are left out, if there are others: what
    they hid behind the backward pass was not measured.
    """
    planned = known.as_it_was(known.planned(known.own, known.run.K))
    check_patience(planned)
    rounds, a_byte_a_second = known.run.rounds, Network("", 0.0, 1.0)
    per_byte = Rehearsal(planned, a_byte_a_second)
    plan = acted_out(planned, a_byte_a_second, per_byte, math.nan)
    long = rounds.local_steps > 1
    stretches = [s for s in plan.stretches if s.H > 1 or not long.any()]
    algorithm = type(planned.config.algorithm)
    hidden = per_byte.hides or (
        not long.any() and algorithm.in_backward is not Algorithm.in_backward
    )
    talked = np.nan_to_num(mean_over_rest(rounds.transfer_s))[long if long.any() else slice(None)]
    sent_bytes = sum(s.exchange_s for s in stretches) / max(1, sum(s.rounds for s in stretches))
    if hidden or not sent_bytes or not talked.sum():
        why = "hid exchanges behind steps" if hidden else "recorded no seconds of exchanges"
        raise ConfigurationError(
            f"this run {why}, so its record does not tell the network: give --fabric (a name, "
            '"50us,117MB/s", or the file of benchmarks/collectives.py)'
        )
    each_s, off = spread(talked, np.ones(len(talked)))
    cost = Cost((Piece(math.inf, 0.0, each_s / sent_bytes),), off=off)
    return Network(RECORDED, 0.0, sent_bytes / each_s, dict.fromkeys(KINDS, cost))
