"""How often a run is measured, kept and logged, in steps or in seconds."""

from __future__ import annotations

from hpc_localsgd.commands.configuration.config import Config
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.probes import (
    Deviations,
    Evaluation,
    Gradients,
    Probe,
    Skipped,
    Snapshots,
    Spread,
    Uncertainty,
)
from hpc_localsgd.schedules.duration import Units, seconds


def probes(config: Config, units: Units) -> tuple[list[Probe], Spread]:
    """Make the probes, with cadences in steps.

    Raises:
        ConfigurationError: A cadence is not understood, or they have no sample to measure on.
    """
    evaluation = Evaluation(
        units.cadence(config.evaluate_every, "--evaluate-every"),
        ("test",),
        config.evaluate_workers,
    )
    snaps = units.cadence(config.snapshot_every, "--snapshot-every")
    snapshot = Snapshots(snaps, config.snapshot_workers)
    if config.probe_samples < 1:
        raise ConfigurationError(f"--probe-samples {config.probe_samples}: give at least one")
    often = units.cadence(config.deviations_every, "--deviations-every")
    deviations = Deviations(often, config.probe_samples)
    often = units.cadence(config.gradients_every, "--gradients-every")
    gradients = Gradients(often, config.probe_samples, fresh=config.task.fresh)
    uncertainty = Uncertainty(units.cadence(config.uncertainty_every, "--uncertainty-every"))
    often = units.cadence(config.spread_every, "--spread-every")
    around = Spread(often, (deviations, gradients, uncertainty))
    return [evaluation, Skipped(evaluation.every), snapshot], around


def checkpoint_cadence(config: Config, units: Units) -> tuple[int, float]:
    """Return the cadence of checkpoints in steps and in seconds; the one not used is 0."""
    every, option = config.checkpoint_every, "--checkpoint-every"
    by_clock = seconds(every, option)
    return (units.cadence(every, option, or_time=True), 0.0) if by_clock is None else (0, by_clock)


def watchdog_s(config: Config) -> float:
    """Return the least seconds without a step after which a job counts as hung; 0 for never.

    Raises:
        ConfigurationError: No time.
    """
    return _time_or_never(config.watchdog, "--watchdog", "10 minutes")


def log_every_s(config: Config) -> float:
    """Return the seconds between two lines of the log; 0 for none but those at evaluations.

    Raises:
        ConfigurationError: No time.
    """
    return _time_or_never(config.log_every, "--log-every", "30 seconds")


def _time_or_never(given: int | str, option: str, like: str) -> float:
    found = 0.0 if str(given) == "0" else seconds(given, option)
    if found is None:
        raise ConfigurationError(f'{option} {given}: type a time ("{like}"), or 0 for none')
    return found
