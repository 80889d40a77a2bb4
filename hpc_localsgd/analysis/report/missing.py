"""What a report cannot say, why, and what to type so that the next one can."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpc_localsgd.analysis import curves
from hpc_localsgd.analysis.report.source import Source


def notes_on(source: Source) -> list[str]:
    """Return everything unusual about a run, each in a sentence or two."""
    return [*_standing(source), *_gaps(source), *_bad_values(source)]


def _standing(source: Source) -> Iterator[str]:
    run, done = source.run, source.done
    planned = source.plan if isinstance(source.plan, str) else source.plan.steps
    of = f"{done:,} of {planned:,} steps" if isinstance(planned, int) else f"{done:,} steps"
    if run.status == "running":
        yield (
            f"The record was not closed: the run is in progress, or it was killed. It holds {of}; "
            "everything below is about these."
        )
    elif run.status == "stopped":
        yield f"The run was stopped before its end. It holds {of}."
    elif run.status == "diverged":
        yield f"The run diverged: a training loss was not finite after {of}."
    if len(run.paths) > 1:
        yield f"The run was resumed: its record is {len(run.paths)} segments, put together here."
    if isinstance(planned, str):
        yield f"There is no plan to compare with: {planned}."


def _gaps(source: Source) -> Iterator[str]:
    run, names = source.run, set(source.run.names())
    if not len(run.rounds):
        yield "No round had ended when the record was last written."
    if curves.ACCURACY not in names:
        yield "The model was never evaluated: there is no accuracy (`--evaluate-every`)."
    elif curves.without_accuracy(run):
        yield "This task has no accuracy: see its test loss."
    if curves.TRAIN not in names:
        yield "No training loss was recorded."
    if not {"spread", "before_exchange/spread"} & names and run.K > 1:
        yield "The spread of the workers was not recorded (`--spread-every`)."
    if not len(run.snapshot_steps):
        yield (
            "There are no snapshots: sharpness can be measured at the end of the run alone, and no "
            'landscape. Train with `--snapshot-every "10%"`.'
        )
    elif not any(name.startswith("sharpness/") for f in source.files for name in f.names()):
        yield f"Sharpness has not been measured: `python -m hpc_localsgd sharpness {run.path}`."
    for path in source.outdated:
        yield (
            f"`{path.name}` was measured of a run that was in this folder before, and is left out: "
            "measure again with `--overwrite`."
        )
    if run.attrs.get("clock") == "modelled":
        yield (
            "The workers were simulated in one process: seconds of communication are predictions "
            "for the network in the name of the world, and no rank waits."
        )


def _bad_values(source: Source) -> Iterator[str]:
    run = source.run
    none = {curves.ACCURACY} if curves.without_accuracy(run) else set()
    for name in run.names():
        if name in none or curves.is_large(run, name):
            continue
        value = run.series(name).value
        bad = int((~np.isfinite(value)).sum())
        if bad:
            yield f"{bad:,} of the {value.size:,} values of `{name}` are not finite; not drawn."
