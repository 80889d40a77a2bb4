"""Each run of a launch of several, `several_runs.py`, waited for alone."""

from __future__ import annotations

from pathlib import Path

from launching import Job

SEVERAL = str(Path(__file__).parent / "several_runs.py")


def options_of(out: Path) -> Path:
    """Where the options of the run in a folder are: beside it."""
    return out.with_name(f"{out.name}.options")


def has_ended(job: Job, options: Path, timeout_s: float = 200) -> None:
    """Wait for the run with these options."""
    said = f"{options}: ended"
    job.until(lambda: said in job.stderr.read_text(), timeout_s, f"{options.stem} has ended")
