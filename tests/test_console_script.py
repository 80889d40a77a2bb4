"""`hpc-localsgd` is installed beside Python, and is `python -m hpc_localsgd`."""

from __future__ import annotations

import os
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


def test_a_backend_of_a_notebook_elsewhere_is_no_hindrance() -> None:
    """Notebooks set it for what is typed in them, and matplotlib refuses to be imported with it."""
    for module in ("hpc_localsgd", "hpc_localsgd.train"):
        code = f"""
import runpy, sys
sys.argv = ["it", "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
import matplotlib
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MPLBACKEND": "not_installed_here"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
