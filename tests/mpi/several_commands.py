"""Several commands of the package in one launch, one after another: `several_commands.py FILE...`.

Each file holds the words of one, a line each: `sharpness`, the run, its options.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_localsgd.__main__ import main
from hpc_localsgd.environment import garbage

garbage.leave_at_exit()
sys.exit(max(main(Path(file).read_text().splitlines()) for file in sys.argv[1:]))
