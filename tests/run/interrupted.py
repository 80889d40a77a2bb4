"""Short runs that are interrupted at a step, as whatever ends a process would, and go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from hpc_localsgd.commands.assembly.job import Job, make_job
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.loop import Position, train
from hpc_localsgd.worlds.simulated import Simulated

DIGITS = ("--task.hidden=8",)
SHORT = ["--steps=30", "--batch-per-worker=4", "--schedule.switch=7"]
SHORT += ["--schedule.every=4", "--checkpoint-every=5", "--evaluate-every=1", "--spread-every=1"]


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@dataclass
class Stop:
    """A display that interrupts the run when it shows the given step."""

    at: int | None
    shown: list[int] = field(default_factory=list)

    def __call__(self, t: int, values: dict[str, float]) -> None:
        self.shown.append(t)
        if t == self.at and "eval/test/loss" in values:
            raise Interrupted


def start(
    out: Path,
    *options: str,
    stop: int | None = None,
    K: int = 3,
    task: Sequence[str] = DIGITS,
) -> tuple[Job, Stop]:
    resolved = parse([*task, *SHORT, f"--out={out}", *options])
    show = Stop(stop)
    return make_job(resolved, Simulated(K), show), show


def finish(job: Job) -> Position:
    job.start()
    p = train(job.run, job.position, job.record, job.keep)
    job.close("complete")
    return p


def interrupt(out: Path, at: int, *options: str, task: Sequence[str] = DIGITS) -> None:
    job, _ = start(out, *options, stop=at, task=task)
    with pytest.raises(Interrupted):
        finish(job)
    job.close("stopped")


def memory_of(job: Job) -> list[torch.Tensor]:
    """Everything that decides how a run continues."""
    states = job.run.optimizer.torch.state.values()
    tensors = [value for state in states for _, value in sorted(state.items())]
    return [job.run.task.x, job.run.task.buffers, *(t for t in tensors if t is not None)]


def folders(out: Path) -> list[str]:
    return sorted(folder.name for folder in (out / "checkpoints").iterdir())
