"""`python -m hpc_localsgd verify`: is everything on this machine and launcher as it should be?"""

from __future__ import annotations

from hpc_localsgd.commands.verify.command import main

__all__ = ["main"]
