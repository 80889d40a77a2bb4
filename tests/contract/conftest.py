"""Ranks that are threads, of the tests of `attach`, can be imported by these tests too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "attach"))
