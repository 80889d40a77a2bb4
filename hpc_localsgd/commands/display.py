"""What a person sees of a run: progress, as a bar or as plain lines, and a closing table.

Launchers give their ranks a terminal even when their own output is a file, and put a tag in front
of every write: so there is a bar only without a launcher, and every line is one write.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS, without_accuracy
from hpc_localsgd.engine.optimizer import described
from hpc_localsgd.run.recorder import ROUND_LOSS
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.trajectory.estimate import human_bytes
from hpc_localsgd.types import legend

if TYPE_CHECKING:
    from hpc_localsgd.loop import Run
    from hpc_localsgd.trajectory import Rounds

LABELS = {
    "train/loss": "train loss",
    ROUND_LOSS: "mean train loss of the round",
    TEST_LOSS: "test loss",
    ACCURACY: "test accuracy",
    "spread": "spread",
}
WORTH_NAMING = 0.05  # of a run's time, spent waiting for one host
PLAIN_EVERY_S = 1.0  # between plain lines


class Display:
    """Progress of a run, shown on rank 0; other ranks show nothing."""

    def __init__(self, rank: int, terminal: bool) -> None:
        self._on, self._terminal = rank == 0, terminal
        self._steps = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._latest: dict[str, tuple[int, float]] = {}  # step, value
        self._said_s = 0.0

    def begin(self, run: Run, notes: Sequence[str] = ()) -> None:
        """Say what is about to run and what may have been overlooked, and start the bar."""
        self._steps = run.steps
        if not self._on:
            return
        _say(f"{legend(run.algorithm)}, {run.schedule}")
        _say(f"{described(run.optimizer.torch)}, {run.rate}")
        _say(f"{run.steps} steps of {run.world}, {run.task.dim:,} parameters")
        for note in notes:
            _say(note)
        if run.world.size == 1:
            _say("one worker has nobody to average with: add --workers 4, or start more ranks")
        if self._terminal:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("", total=run.steps, values="")

    def show(self, t: int, values: dict[str, float]) -> None:
        """Show the latest values after t steps, with the step of those that are older."""
        self._latest |= {name: (t, value) for name, value in values.items()}
        said = filter(None, (self._said(name, t) for name in LABELS if name in self._latest))
        text = "  ".join(said)
        if self._bar is not None:
            self._bar.update(self._task, completed=t, values=text)
        elif self._on and ACCURACY in values:
            self._plain(t, text)

    def _said(self, name: str, t: int) -> str:
        """Return a value in words; "" where there is none, or a newer one of its kind.

        An accuracy of NaN is a task's that has none; a loss of NaN is news.
        """
        step, value = self._latest[name]
        other = {"train/loss": ROUND_LOSS, ROUND_LOSS: "train/loss"}.get(name, "")
        newer, _ = self._latest.get(other, (-1, 0.0))
        if newer > step or (newer == step and name == ROUND_LOSS):
            return ""
        if name == ACCURACY and not math.isfinite(value):
            return ""
        return f"{LABELS[name]} {value:.3g}" + (f" (step {step})" if step != t else "")

    def _plain(self, t: int, text: str) -> None:
        now = time.monotonic()
        if now - self._said_s > PLAIN_EVERY_S or t == self._steps:
            self._said_s = now
            _say(f"step {t:>{len(str(self._steps))}}/{self._steps}  {text}")

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


def _bar() -> Progress:
    return Progress(
        TextColumn("step {task.completed:>6.0f}/{task.total:.0f}"),
        BarColumn(bar_width=30),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )


def show_conclusion(
    trajectory: Trajectory, run: Run, files: Sequence[Path], hosts: Sequence[str] = ()
) -> None:
    """Print what a run achieved and what it cost."""
    console = Console(width=100, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(conclusion(trajectory, run, files, hosts))
    _say("\n".join(["", *(line.rstrip() for line in captured.get().splitlines())]))


def conclusion(
    trajectory: Trajectory, run: Run, files: Sequence[Path], hosts: Sequence[str] = ()
) -> Table:
    """Return the closing table: accuracy, rounds, payload, and where the seconds went.

    Args:
        trajectory: What was recorded.
        run: What ran.
        files: What it left behind.
        hosts: Where each of the K workers was.
    """
    totals = trajectory.totals
    parallel = run.task.x[0].nbytes * totals.steps
    share = 100 * totals.rounds / totals.steps
    of = "per worker" + (", modelled" if run.world.ledger.modelled else "")
    sent, would = human_bytes(totals.payload_bytes), human_bytes(parallel)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if without_accuracy(trajectory):
        loss = trajectory.series(TEST_LOSS).value[-1]
        table.add_row("test loss of the mean model", f"{loss:.4g}")
    elif ACCURACY in trajectory.names():  # --evaluate-every 0 leaves it out
        accuracy = trajectory.series(ACCURACY).value[-1]
        table.add_row("test accuracy of the mean model", f"{accuracy:.4f}")
    if "data/skipped" in trajectory.names():
        skipped = int(trajectory.series("data/skipped").value[-1])
        table.add_row("damaged images skipped", f"{skipped}, every time one was due in training")
    table.add_row(
        "rounds", f"{totals.rounds}, where parallel SGD syncs {totals.steps} times ({share:.0f} %)"
    )
    table.add_row("payload per worker", f"{sent}, where parallel SGD sends {would}")
    table.add_row("optimiser", described(run.optimizer.torch))
    table.add_row("learning rate", repr(run.rate))
    table.add_row("computing", f"{totals.compute_s:.2f} s per worker")
    table.add_row("waiting for the slowest", f"{totals.wait_s:.2f} s {of}")
    if row := straggler(trajectory.rounds, hosts):
        table.add_row("they waited for", row)
    table.add_row("transferring", f"{totals.transfer_s:.2f} s {of}")
    table.add_row("files", os.linesep.join(str(path) for path in files))
    return table


def straggler(rounds: Rounds, hosts: Sequence[str]) -> str:
    """Return the host that others waited for, and how long; "" if there is no clear one.

    In every round the worker that waited least was the last to arrive, and the others' waiting was
    for it. Workers of one host count together.
    """
    wait_s = rounds.wait_s
    if not len(rounds) or wait_s.shape[1] != len(hosts) or len(hosts) == 1:
        return ""
    wait_s = np.nan_to_num(wait_s[np.isfinite(wait_s).all(1)])
    names, host = np.unique(np.asarray(hosts), return_inverse=True)
    for_host = np.zeros(len(names))
    np.add.at(for_host, host[wait_s.argmin(1)], wait_s.mean(1))
    whole_s = float((rounds.compute_s + rounds.wait_s + rounds.transfer_s).mean(1).sum())
    worst = int(for_host.argmax())
    share = for_host[worst] / max(whole_s, 1e-9)
    if len(names) == 1 or share < WORTH_NAMING:
        return ""
    return f"{names[worst]}, {for_host[worst]:.2f} s per worker ({100 * share:.0f} % of the time)"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
