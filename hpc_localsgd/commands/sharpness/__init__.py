"""`python -m hpc_localsgd sharpness RUN`: the curvature of the loss at a run's snapshots."""

from __future__ import annotations

from hpc_localsgd.commands.sharpness.command import main

__all__ = ["main"]
