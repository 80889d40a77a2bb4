"""The tests marked `cuda`, where pytest is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from on_gpu.section import Bench, Section
from reporting import ROOT

PATIENCE_S = 200.0


def section(bench: Bench) -> Section:
    """Run them, and report the last line."""
    if not bench.on_gpu:
        return Section("Not run: without a GPU they are run by `make test`.", {})
    if find_spec("pytest") is None:
        return Section("Not run: `pip install pytest pytest-timeout`.", {})
    # Only these folders are collected: others import what may not be installed here.
    where = ["tests/engine/test_on_a_gpu.py", "tests/compressors"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *where]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return Section("No end in time.", {}, [f"tests did not end within {PATIENCE_S:.0f} s"])
    last = [line for line in done.stdout.splitlines() if line.strip()][-10:]
    wrong = [] if done.returncode == 0 else ["tests marked cuda fail"]
    return Section("```\n" + "\n".join(last) + "\n```", {"status": done.returncode}, wrong)
