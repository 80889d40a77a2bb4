"""`python -m hpc_localsgd plan`: a run, its traffic and its seconds, before it starts."""

from __future__ import annotations

from hpc_localsgd.commands.plan.command import main

__all__ = ["main"]
