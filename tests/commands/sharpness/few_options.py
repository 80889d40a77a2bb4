"""Options of a small run, and of a measurement that takes a moment."""

from __future__ import annotations

RUN = ["--task.hidden=4", "--workers=3", "--schedule=every", "--schedule.steps=8", "--steps=30"]
FAST = ["--samples=200", "--eigenvalues=3", "--dtype=float64", "--direction-probes=4"]
