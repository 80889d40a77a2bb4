"""The live line of a sweep: how many runs are done, and how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.cost.formatting import human_seconds


class ProgressLine:
    """A bar on a terminal; elsewhere a plain line whenever a run has ended."""

    def __init__(self, total: int, done: int, jobs: int, terminal: bool) -> None:
        """Begin.

        Args:
            total: Runs of the sweep.
            done: Those that had ended before.
            jobs: How many are run at a time.
            terminal: Whether somebody sees a line that changes.
        """
        self._total, self._done, self._jobs = total, done, jobs
        self._seconds: list[float] = []  # of the runs that ended well
        self._bar = _bar() if terminal else None
        self._task: TaskID | None = None
        if self._bar:
            self._task = self._bar.add_task("", total=total, completed=done, said="")

    def __enter__(self) -> ProgressLine:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def ended(self, member: Member, word: str, seconds: float) -> None:
        """Count a run that has ended.

        Args:
            member: Which.
            word: How it ended.
            seconds: How long it took.
        """
        self._done += 1
        self._seconds.append(seconds)
        text = f"{member.title}: {word}, {human_seconds(seconds)}"
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            left = self._left()
            sys.stdout.write(f"[{self._done}/{self._total}] {text}{f'; {left}' if left else ''}\n")
            sys.stdout.flush()

    def show(self, running: Sequence[Member]) -> None:
        """Show the line as it is now.

        Args:
            running: The runs that are in progress.
        """
        if self._bar and self._task is not None:
            names = "; ".join(member.title for member in running)
            said = "  ".join(filter(None, (self._left(), names)))
            self._bar.update(self._task, completed=self._done, said=said)

    def _left(self) -> str:
        """Say how long the rest will take, from the mean of the runs so far."""
        rest = self._total - self._done
        if not self._seconds or not rest:
            return ""
        each = sum(self._seconds) / len(self._seconds)
        return f"about {human_seconds(each * rest / min(self._jobs, rest))} left"


def _bar() -> Progress:
    said = TextColumn("{task.fields[said]}", markup=False)
    return Progress(BarColumn(), MofNCompleteColumn(), said)
