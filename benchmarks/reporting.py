"""Reports of benchmarks: figures with their circumstances, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORTS = Path(__file__).parent / "reports"
LOAD = os.getloadavg()[0]  # before anything is timed


def circumstances() -> dict[str, str]:
    """Return the circumstances of a measurement: when, where, of what, by which command."""
    import torch

    return {
        "date": str(date.today()),
        "commit": commit_of(ROOT),
        "command": shlex.join(["python", *_started(), *sys.argv[1:]]),
        "processor": _processor(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{LOAD:.1f}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, and whether its package was changed since."""

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True)
        return answer.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "hpc_localsgd") else ""
    return git("rev-parse", "--short", "HEAD") + changed


def _started() -> list[str]:
    """Return the words by which Python was given this script: `-m` and a module, or its path."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.name != "__main__":  # which a folder has
        return ["-m", spec.name.removesuffix(".__main__")]
    whole = Path(sys.argv[0]).absolute()
    return [str(whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else sys.argv[0])]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write_report(name: str, text: str, data: Mapping[str, Any]) -> None:
    """Print a report, and keep it as Markdown and JSON in `benchmarks/reports/`."""
    about = circumstances()
    header = "\n".join(f"- {key}: {value}" for key, value in about.items())
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{name}.md").write_text(f"{text}\n\n## Circumstances\n\n{header}\n")
    (REPORTS / f"{name}.json").write_text(json.dumps({**about, **data}, indent=1) + "\n")
    print(text)
