"""`python -m hpc_localsgd sweep`: runs over a grid of options and seeds."""

from __future__ import annotations

from hpc_localsgd.commands.sweep.command import main as main
