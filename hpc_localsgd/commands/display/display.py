"""Progress of a run on rank 0, and silence on the others."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from rich import get_console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from hpc_localsgd.analysis.curves import ACCURACY
from hpc_localsgd.analysis.text_tables import wrapped
from hpc_localsgd.commands.display.lines import key_values, live_line, log_line
from hpc_localsgd.commands.display.state import State
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.engine.optimizer import described
from hpc_localsgd.types import legend

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Run
    from hpc_localsgd.schedules.duration import Units

Style = Literal["text", "key=value"]
AT_MOST_EVERY_S = 1.0  # a line for an evaluation
BAR, WIDE = 20, 100  # columns of the bar, and of a terminal that has room for it


class Display:
    """Progress of a run on rank 0, and silence on the others."""

    def __init__(
        self, rank: int, terminal: bool, every_s: float = 30.0, style: Style = "text"
    ) -> None:
        """Show nothing yet.

        Args:
            rank: Of this process.
            terminal: Whether somebody watches, so that a line can be written over.
            every_s: Seconds between lines of a log, beside those at evaluations; 0 for these only.
            style: Of the lines of a log.
        """
        self._on, self._terminal = rank == 0, terminal
        self._every_s, self._style = every_s, style
        self._state = State()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._said_s = -math.inf

    def begin(self, run: Run, t: int, units: Units, notes: Sequence[str] = ()) -> None:
        """Say what is about to run, and what may have been overlooked, and start the live line.

        Args:
            run: The run.
            t: Step at which it continues.
            units: Steps of an epoch, samples of a step.
            notes: What may have been overlooked, a line each.
        """
        self._state = State(run.steps, units.steps_per_epoch, units.samples_per_step)
        self._state.begin(t)
        if not self._on:
            return
        width = columns_of_output() if self._terminal else None
        for line in wrapped(_heading(run, notes), width):
            put(line)
        if self._terminal:
            self._bar = Progress(*_columns())
            self._bar.start()
            self._task = self._bar.add_task("", total=run.steps, line="")

    def show(self, t: int, values: dict[str, float]) -> None:
        """Take the latest values after t steps, and write a line when one is due."""
        if not self._on:
            return
        state = self._state
        state.take(t, values)
        if self._bar is not None:
            width = self._bar.console.width
            line = live_line(state, width - (BAR + 1 if width >= WIDE else 0))
            self._bar.update(self._task, completed=state.t, line=line)
        elif self._due(ACCURACY in values):
            put(log_line(state) if self._style == "text" else key_values(state))
            state.said()
            self._said_s = time.monotonic()

    def _due(self, evaluated: bool) -> bool:
        ago_s, last = time.monotonic() - self._said_s, self._state.t == self._state.steps
        if evaluated:
            return last or ago_s > AT_MOST_EVERY_S
        began = self._state.t == self._state.begun_at
        return not (last or began) and 0 < self._every_s < ago_s  # these have an evaluation

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _heading(run: Run, notes: Sequence[str]) -> Iterator[str]:
    """Yield what is about to run, and what may have been overlooked."""
    yield f"{legend(run.algorithm)}, {run.schedule}"
    yield f"{described(run.optimizer.torch)}, {run.rate}"
    yield f"{run.steps:,} steps of {run.world}, {run.task.dim:,} parameters"
    if said := run.task.partition.said():
        yield said
    yield from notes
    if run.world.K == 1:
        yield "one worker has nobody to average with: add --workers 4, or start more ranks"


def _columns() -> list[ProgressColumn]:
    """Return what a live line is made of; a bar only where the numbers leave room for it."""
    line = TextColumn("{task.fields[line]}", markup=False)
    return [BarColumn(bar_width=BAR), line] if get_console().width >= WIDE else [line]
