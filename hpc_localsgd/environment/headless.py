"""Figures of a command go into files, whatever shows figures around it.

A notebook sets MPLBACKEND for all that is typed in it (`!python -m hpc_localsgd report ...`), to
`module://matplotlib_inline.backend_inline`. Matplotlib refuses to be imported where that is not
installed: at the end of a run, say, when its figures are drawn.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping


def draw_into_files(environ: MutableMapping[str, str] = os.environ) -> None:
    """Name the backend of matplotlib that needs neither window nor notebook."""
    environ["MPLBACKEND"] = "agg"
