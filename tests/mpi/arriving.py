"""Runs of the slow digits that are stopped where they are, and not after some time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launching import Job, started, until


def slow_from(step: int, here: Path, launcher: Sequence[str]) -> list[str]:
    """A launcher whose workers say in a folder that they come to a step, and are slow from there.

    They take 0.2 s for each.
    """
    here.mkdir()
    return ["env", f"ARRIVES={step} {here}", "SLOW_S=0.2", *launcher]


@contextmanager
def arrived(
    launcher: Sequence[str], arguments: Sequence[str], out: Path, step: int, workers: int = 2
) -> Iterator[Job]:
    """Start a run; all workers have come to a step, and are slow from there."""
    here = out.with_name(f"{out.name}-at-{step}")
    with started(slow_from(step, here, launcher), arguments) as job:

        def all_there() -> bool:
            assert job.process.poll() is None, job.wait().text[-2000:]
            return len([*here.iterdir()]) == workers

        until(all_there, 200, f"all workers come to step {step}")
        yield job
