"""Each run of a launch of several, `several_runs.py`, waited for alone."""

from __future__ import annotations

from pathlib import Path

from launching import Job, until

SEVERAL = str(Path(__file__).parent / "several_runs.py")


def options_of(out: Path) -> Path:
    """Where the options of the run in a folder are: beside it."""
    return out.with_name(f"{out.name}.options")


def has_ended(job: Job, options: Path) -> None:
    """Wait for the run with these options."""
    said = f"{options}: ended"

    def over() -> bool:
        return said in job.stderr.read_text() or job.process.poll() is not None

    until(over, 200, f"{options.stem} has ended")
    assert said in job.stderr.read_text(), job.wait().text[-3000:]
