"""Records a run: what the loop did, what the probes saw, and when to save it.

Everything here is measurement: it happens inside `ledger.unbilled()` and never counts as training
or communication. Ranks exchange their figures only now and then, at steps all of them know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.probes import Measurement, Probe, Spread, View

if TYPE_CHECKING:
    from hpc_localsgd.checkpoint import Checkpoints
    from hpc_localsgd.loop import Position, Run
    from hpc_localsgd.trajectory import Writer
    from hpc_localsgd.types import Losses, Now
    from hpc_localsgd.worlds.ledger import OpenBill, Stamp

DRAIN_EVERY = 32  # steps between two exchanges of the ranks' own figures


class Diverged(RuntimeError):
    """A worker's training loss is not finite. Raised by all ranks alike."""


@dataclass
class _Row:
    """One finished round of this rank, its clock perhaps still running on a GPU."""

    now: Now
    end: int
    loss: Losses  # [R], mean over the round
    begin: Stamp
    until: Stamp
    bill: OpenBill


class Recorder:
    """Collects the rows of a run and hands them to the writer (on rank 0) and the display."""

    def __init__(
        self,
        run: Run,
        probes: Iterable[Probe] = (),
        spread: Spread | None = None,
        writer: Writer | None = None,
        show: Callable[[int, dict[str, float]], None] = lambda t, values: None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Watch a run.

        Args:
            run: The run.
            probes: What is measured at steps.
            spread: The probe around an exchange.
            writer: Where it is written; None on ranks other than 0.
            show: Called with the step and the latest values, for a progress display.
            checkpoints: Kept at the ends of rounds where they are due.
        """
        self.run, self.probes, self.writer = run, tuple(probes), writer
        self.spread = spread or Spread(every=0)
        self._show, self._checkpoints = show, checkpoints
        self._rows: list[_Row] = []
        self._loss: Losses | None = None
        self._ledger = run.world.ledger
        self._began = self._ledger.clock.stamp()
        self._ledger.take()  # what was sent before the run is not part of a round

    def start(self, p: Position) -> None:
        """Measure before the first step."""
        self.measure(p)

    def after_step(self, loss: Losses) -> None:
        """Add up the losses [R] of the round, on the device."""
        self._loss = loss if self._loss is None else self._loss + loss

    def before_sync(self, p: Position, now: Now) -> None:
        """Look at the workers before they are averaged."""
        with self._ledger.unbilled():
            self.spread.before_sync(self.run, p, now)

    def after_sync(self, p: Position, now: Now) -> None:
        """Close the round's row; exchange and write rows when it is time; keep a checkpoint."""
        with self._ledger.unbilled():
            self._write(p.t, self.spread.after_sync(self.run, p))
        until = self._ledger.clock.stamp()
        assert self._loss is not None
        row = _Row(now, p.t, self._loss / now.H, self._began, until, self._ledger.take())
        self._rows.append(row)
        self._loss, self._began = None, until
        with self._ledger.unbilled():
            saving = self._checkpoints is not None and self._checkpoints.due(p)
            if saving or p.t // DRAIN_EVERY > p.begin // DRAIN_EVERY or p.t == self.run.steps:
                self.drain()
            if saving:
                self._save(p)

    def _save(self, p: Position) -> None:
        """Keep a checkpoint, and first what was recorded: a resumed run goes on behind it."""
        assert self._checkpoints is not None
        if self.writer is not None:
            self.writer.flush()
        self._checkpoints.save(p)

    def measure(self, p: Position) -> None:
        """Let every probe that is due after p.t steps measure."""
        due = [probe for probe in self.probes if probe.due(p.t, self.run.steps)]
        if not due:
            return
        view = View(self.run, p)
        with self._ledger.unbilled(), torch.no_grad():
            for probe in due:
                self._write(p.t, probe.measure(view))

    def drain(self) -> None:
        """Exchange the figures of the finished rounds, write them, and look for divergence.

        Raises:
            Diverged: A worker's loss is not finite; on all ranks alike.
        """
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        figures = self.run.world.gather(np.stack([_figures(row) for row in rows], axis=1))
        if self.writer is not None:
            for i, row in enumerate(rows):
                self._write_round(row, figures[:, i])
        self._show(rows[-1].end, {"train/loss": float(figures[:, -1, 0].mean())})
        _check_finite(rows, figures[:, :, 0])

    def _write_round(self, row: _Row, figures: np.ndarray) -> None:
        """One row of /rounds and of train/loss from the figures [K, 5] of all workers."""
        assert self.writer is not None
        loss, compute_s, exchange_s, payload, wire = figures.T
        # The rank that arrived last waited for nobody: its time is the transfer, the rest waiting.
        transfer_s = (
            exchange_s if self._ledger.modelled else np.full_like(exchange_s, exchange_s.min())
        )
        self.writer.round(
            step_begin=row.end - row.now.H,
            step_end=row.end,
            lr=row.now.lr_round,
            compute_s=compute_s,
            wait_s=exchange_s - transfer_s,
            transfer_s=transfer_s,
            payload_bytes=payload,
            wire_bytes=wire,
        )
        meaning = "mean over the round, each worker on its own batches"
        self.writer.series(
            "train/loss", row.end, loss, units="nat", dims=("worker",), meaning=meaning
        )

    def _write(self, t: int, measurements: Iterable[Measurement]) -> None:
        shown = {}
        for m in measurements:
            if m.name != "snapshot" and np.ndim(m.value) == 0:
                shown[m.name] = float(m.value)
            if self.writer is None:
                continue
            if m.name == "snapshot":
                self.writer.snapshot(t, *m.value)
            else:
                self.writer.series(
                    m.name, t, m.value, units=m.units, dims=m.dims, meaning=m.meaning
                )
        if shown:
            self._show(t, shown)


def _figures(row: _Row) -> np.ndarray:
    """Of one round of this rank, for each of its workers: [R, 5]."""
    bill = row.bill.close()
    ledger = row.bill.ledger
    clock = ledger.clock
    compute_s = clock.seconds(row.begin, row.until) - bill.elsewhere_s
    if ledger.modelled:  # workers that take turns here would compute side by side
        compute_s /= ledger.R
    own = zip(row.loss.double().cpu().numpy(), bill.payload_bytes, strict=True)
    return np.array(
        [[loss, compute_s, bill.transfer_s, sent, bill.wire_bytes] for loss, sent in own]
    )


def _check_finite(rows: list[_Row], losses: np.ndarray) -> None:
    """Raise if a loss [K, n] is not finite, naming the first round and the workers."""
    bad = ~np.isfinite(losses)
    if not bad.any():
        return
    i = int(np.argmax(bad.any(0)))
    workers = ", ".join(str(k) for k in np.flatnonzero(bad[:, i]))
    row = rows[i]
    raise Diverged(
        f"the training loss of worker {workers} is not finite in round {row.now.s} "
        f"(steps {row.end - row.now.H} to {row.end - 1}, learning rate {row.now.lr_round:g}): "
        "lower --rate.lr, lengthen --rate.warmup or shorten the rounds"
    )
