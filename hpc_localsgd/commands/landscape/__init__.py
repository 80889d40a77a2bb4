"""`python -m hpc_localsgd landscape RUN`: the loss between two models, or in a plane of a run."""

from __future__ import annotations

from hpc_localsgd.commands.landscape.command import main

__all__ = ["main"]
