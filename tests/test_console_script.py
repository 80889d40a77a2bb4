"""`hpc-localsgd` is installed beside Python, and is `python -m hpc_localsgd`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("hpc-localsgd")


def test_the_console_script_is_the_module() -> None:
    command = ["summary", "/nowhere"]
    told = [
        subprocess.run([*start, *command], capture_output=True, text=True, timeout=120)
        for start in ([SCRIPT], [sys.executable, "-m", "hpc_localsgd"])
    ]
    assert [done.returncode for done in told] == [2, 2]
    assert told[0].stderr == told[1].stderr and "no such trajectory" in told[0].stderr
