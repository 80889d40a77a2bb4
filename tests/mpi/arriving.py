"""Runs of the slow digits that are stopped where they are, and not after some time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from launching import Job, started, until


@contextmanager
def arrived(
    launcher: Sequence[str], arguments: Sequence[str], out: Path, step: int, workers: int = 2
) -> Iterator[Job]:
    """Start a run; all workers have come to a step, and take 0.1 s for each from there."""
    here = out.with_name(f"{out.name}-arrived")
    here.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARRIVES", f"{step} {here}")
        patch.setenv("SLOW_S", "0.1")
        with started(launcher, arguments) as job:

            def all_there() -> bool:
                assert job.process.poll() is None, job.wait().text[-2000:]
                return len([*here.iterdir()]) == workers

            until(all_there, 200, f"all workers come to step {step}")
            yield job
