"""What a run says beside its record: sentences on standard error.

Not by `logging`: some are said by a thread while the main one is stuck, at times inside a handler
whose lock is never released, and then the process ends.
"""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a text at once and in one write: launchers tag every write, and tear apart others."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
