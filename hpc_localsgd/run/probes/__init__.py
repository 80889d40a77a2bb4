"""Probes: what is measured during a run. Each owns its cadence; the writer owns storage.

A probe measures at steps that are a pure function of the run's length, so all ranks take part in
its collectives at the same moment, and a resumed run measures where the uninterrupted one would.

One file a probe. Some measure after a step (`Probe`), some around an exchange, where the workers
are furthest apart (`AtExchange`).
"""

from __future__ import annotations

from hpc_localsgd.run.probes.base import Measurement, Probe, View
from hpc_localsgd.run.probes.deviations import Deviations
from hpc_localsgd.run.probes.evaluation import Evaluation
from hpc_localsgd.run.probes.exchange import AtExchange, ExchangeView
from hpc_localsgd.run.probes.gradients import Gradients
from hpc_localsgd.run.probes.skipped import Skipped
from hpc_localsgd.run.probes.snapshots import Snapshots
from hpc_localsgd.run.probes.spread import Spread
from hpc_localsgd.run.probes.uncertainty import Uncertainty

__all__ = [
    "AtExchange",
    "Deviations",
    "Evaluation",
    "ExchangeView",
    "Gradients",
    "Measurement",
    "Probe",
    "Skipped",
    "Snapshots",
    "Spread",
    "Uncertainty",
    "View",
]
