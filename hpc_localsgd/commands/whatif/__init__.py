"""`python -m hpc_localsgd whatif RUN`: what a recorded run would have cost as another one."""

from __future__ import annotations

from hpc_localsgd.commands.whatif.command import main

__all__ = ["main"]
