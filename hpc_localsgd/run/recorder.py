"""Records a run: what the loop did, what the probes saw, and when to save it.

Everything here is measurement: it happens inside `ledger.unbilled()` and never counts as training
or communication. Ranks exchange their figures only now and then, at steps all of them know.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.engine.non_finite import said
from hpc_localsgd.run.probes import Measurement, Probe, Spread, View
from hpc_localsgd.run.quarantine import QUARANTINED
from hpc_localsgd.trajectory import NotWritten, RecordGone, TrajectoryError

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.trajectory import Writer
    from hpc_localsgd.types import Losses, Now
    from hpc_localsgd.worlds.ledger import OpenBill, Stamp

DRAIN_EVERY = 32  # steps between two exchanges of the ranks' own figures
CLOSE_WITHIN_S = 3.0
LOOK_EVERY_S = 1.0  # between two glances at the loss for the display, in the middle of a round
# What is shown beside the probes' values, by name.
ROUND_LOSS = "train/loss, mean of the round"  # the last step's is not in a row
LOSS_HERE = "train/loss, of the workers of this rank"
STEPS_OF_ROUNDS = "rounds/steps"  # of the rounds that ended since these were last shown
ROUNDS_LOSS = "rounds/loss"  # mean over those steps and all workers
COMPUTE_S, EXCHANGE_S = "rounds/compute_s", "rounds/exchange_s"  # of the mean worker, their sums
LAST_RATE, LAST_H = "rounds/lr", "rounds/H"
FIGURES = 5  # loss, seconds computing, seconds in exchanges, bytes asked to send, bytes sent


class Diverged(RuntimeError):
    """A worker's training loss is not finite. Raised by all ranks alike."""


@dataclass(frozen=True)
class _Row:
    """One finished round of this rank; on a GPU its clock may still be running."""

    s: int
    H: int
    end: int
    lr: float
    figures: Callable[[], np.ndarray]  # -> [R, 5]

    def state(self) -> dict[str, Any]:
        """Return the row for a checkpoint."""
        figures = torch.from_numpy(self.figures())
        return {"s": self.s, "H": self.H, "end": self.end, "lr": self.lr, "figures": figures}

    @classmethod
    def saved(cls, state: dict[str, Any]) -> _Row:
        """Restore a row from a checkpoint."""
        figures = state["figures"].numpy()
        return cls(state["s"], state["H"], state["end"], state["lr"], lambda: figures)


class Recorder:
    """Collects the rows of a run, for the writer (on rank 0) and the display.

    Attributes:
        gone: On rank 0, what happened to the record if it is not there any more.
    """

    def __init__(
        self,
        run: Run,
        probes: Iterable[Probe] = (),
        spread: Spread | None = None,
        writer: Writer | None = None,
        show: Callable[[int, dict[str, float]], None] = lambda t, values: None,
    ) -> None:
        """Watch a run.

        Args:
            run: The run.
            probes: What is measured at steps.
            spread: The probe around an exchange.
            writer: Where it is written; None on ranks other than 0.
            show: Called with the step and the latest values, for a progress display.
        """
        self.run, self.probes, self.writer = run, tuple(probes), writer
        self.spread = spread or Spread(every=0)
        self._show = show
        self._rows: list[_Row] = []
        self._loss: Losses | None = None
        self._newest: Losses | None = None  # of the step just taken
        self._t, self._looked_s = 0, time.monotonic()
        self._ledger = run.world.ledger
        self._began = self._ledger.clock.stamp()
        self._ledger.take()  # what was sent before the run is not part of a round
        self._before = np.zeros((len(run.world.ranks), FIGURES))  # of a round begun by another job
        self._resumed = False
        self._tolerant = False  # of single workers whose loss is not finite
        self._writing = threading.Lock()
        self._closed = False
        self.gone = ""  # what happened to the record, if it is not there any more

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: rounds not written yet, and the current one."""
        bill, until = self._ledger.so_far(), self._ledger.clock.stamp()
        so_far = self._before + _figures(self._began, until, bill)
        return {
            "rows": [row.state() for row in self._rows],
            "loss": self._loss,
            "so_far": torch.from_numpy(so_far),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the record of another job, unless nothing was recorded at this place."""
        if not state:
            return
        self._rows = [_Row.saved(row) for row in state["rows"]]
        loss = state["loss"]
        self._loss = loss if loss is None else loss.to(self.run.world.device)
        self._before = state["so_far"].numpy()
        self._resumed = True

    def start(self, p: Position) -> None:
        """Measure before the first step, unless the job that kept this place has done it."""
        self._t = p.t
        if not self._resumed:
            self.measure(p)

    def after_step(self, loss: Losses) -> None:
        """Add up the losses [R] of the round, on the device."""
        self._newest = loss
        self._loss = loss if self._loss is None else self._loss + loss
        self._t += 1
        if self.run.world.rank == 0 and time.monotonic() - self._looked_s > LOOK_EVERY_S:
            with self._ledger.unbilled():
                self._glance()

    def _glance(self) -> None:
        """Show that the run goes on, without asking other ranks: a round may last for hours."""
        assert self._newest is not None
        self._show(self._t, {LOSS_HERE: float(self._newest.double().mean())})
        self._looked_s = time.monotonic()

    def before_sync(self, p: Position, now: Now) -> None:
        """Look at the workers before they are averaged."""
        with self._ledger.unbilled():
            self.spread.before_sync(self.run, p, now)

    def after_sync(self, p: Position, now: Now) -> None:
        """Close the round's row; exchange and write rows when due."""
        with self._ledger.unbilled():
            self._write(p.t, self.spread.after_sync(self.run, p, now))
            self._write(p.t, self._quarantined(p, now))
        self._rows.append(self._row(p, now))
        self._tolerant = QUARANTINED in p.sync
        with self._ledger.unbilled():
            if p.t // DRAIN_EVERY > p.begin // DRAIN_EVERY or p.t == self.run.steps:
                self.drain()

    def _quarantined(self, p: Position, now: Now) -> Iterator[Measurement]:
        """Yield which workers were left out of the exchange, if any."""
        flags = p.sync.get(QUARANTINED)
        if not flags:
            return
        if self.run.world.rank == 0:
            _say(said(np.array(flags), f"round {now.s}, step {p.t}"))
        meaning = "1: left out of the exchange, its numbers were not finite"
        yield Measurement(QUARANTINED, np.array(flags, float), "1", ("worker",), meaning)

    def _row(self, p: Position, now: Now) -> _Row:
        """Return the round that ends now; the next one begins."""
        began, before, loss = self._began, self._before, self._loss
        assert loss is not None
        until, bill = self._ledger.clock.stamp(), self._ledger.take()
        self._loss, self._began, self._before = None, until, np.zeros_like(before)

        def figures() -> np.ndarray:
            found = before + _figures(began, until, bill)
            found[:, 0] = (loss / now.H).double().cpu().numpy()
            return found

        return _Row(now.s, now.H, p.t, now.lr_round, figures)

    def measure(self, p: Position) -> None:
        """Let every probe that is due after p.t steps measure."""
        due = [probe for probe in self.probes if probe.due(p.t, self.run.steps)]
        if not due:
            return
        view = View(self.run, p)
        with self._ledger.unbilled(), torch.no_grad():
            self._show_loss(p.t)
            for probe in due:
                self._write(p.t, probe.measure(view))

    def _show_loss(self, t: int) -> None:
        """Show the training loss of the step that ended now; where ranks talk anyway."""
        if self._newest is None:  # before the first step of this job
            return
        losses = self.run.world.gather(self._newest.double().cpu().numpy())
        self._show(t, {"train/loss": float(losses.mean())})

    def drain(self) -> None:
        """Exchange the figures of the finished rounds, write them, and check for divergence.

        Raises:
            Diverged: A worker's loss is not finite; on all ranks alike.
        """
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        own = np.stack([row.figures() for row in rows], axis=1)  # [R, n, 5]
        figures = self.run.world.gather(own)
        for i, row in enumerate(rows):
            self._to_writer(self._write_round, row, figures[:, i])
        self._show(rows[-1].end, _of_rounds(rows, figures.mean(axis=0)))
        _check_finite(rows, figures[:, :, 0], self._tolerant)

    def flush(self) -> bool:
        """Write what was recorded to disk; return whether that worked."""
        return self.writer is None or self._to_writer(self.writer.flush)

    def close(self, status: str, within_s: float = CLOSE_WITHIN_S) -> bool:
        """Close the record; return whether that worked.

        Args:
            status: How the run ended.
            within_s: How long to wait for rows that the loop is writing: it may be stuck, and this
                is called from another thread then.
        """
        if not self._writing.acquire(timeout=within_s):
            self._closed = True
            return False
        self._closed = True
        try:
            if self.writer is not None:
                self.writer.close(status)
        except TrajectoryError as error:
            self.gone = str(error) if isinstance(error, RecordGone) else ""
            _say(str(error))
            return False
        finally:
            self._writing.release()
        return True

    def _to_writer(self, write: Callable[..., None], *values: Any, **named: Any) -> bool:
        """Call the writer. A full disk is reported and survived: the rows wait in memory."""
        if self.writer is None:
            return True
        with self._writing:
            if self._closed:  # by a thread that is about to end the process
                threading.Event().wait()
            try:
                write(*values, **named)
            except NotWritten as error:
                _say(f"{error} Training goes on.")
                return False
            except RecordGone as error:
                self.gone = str(error)  # the run stops at the end of this step
                return False
        return True

    def _write_round(self, row: _Row, figures: np.ndarray) -> None:
        """Write a row of /rounds and of train/loss from the figures [K, 5] of all workers."""
        assert self.writer is not None
        loss, compute_s, exchange_s, payload, wire = figures.T
        # The rank that arrived last waited for nobody: its time is the transfer, the rest waiting.
        transfer_s = (
            exchange_s if self._ledger.modelled else np.full_like(exchange_s, exchange_s.min())
        )
        self.writer.round(
            step_begin=row.end - row.H,
            step_end=row.end,
            lr=row.lr,
            compute_s=compute_s,
            wait_s=exchange_s - transfer_s,
            transfer_s=transfer_s,
            payload_bytes=payload,
            wire_bytes=wire,
        )
        meaning = "mean over the round, each worker on its own batches as they are trained on"
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
                self._to_writer(self.writer.snapshot, t, *m.value)
            else:
                said = {"units": m.units, "dims": m.dims, "meaning": m.meaning}
                self._to_writer(self.writer.series, m.name, t, m.value, **said)
        if shown:
            self._show(t, shown)


def _of_rounds(rows: list[_Row], figures: np.ndarray) -> dict[str, float]:
    """Return what is shown of ended rounds, from the figures [n, 5] of the mean worker."""
    H, last = np.array([row.H for row in rows]), rows[-1]
    return {
        "train/loss" if last.H == 1 else ROUND_LOSS: float(figures[-1, 0]),
        STEPS_OF_ROUNDS: float(H.sum()),
        ROUNDS_LOSS: float(H @ figures[:, 0] / H.sum()),
        COMPUTE_S: float(figures[:, 1].sum()),
        EXCHANGE_S: float(figures[:, 2].sum()),
        LAST_RATE: last.lr,
        LAST_H: float(last.H),
    }


def _figures(begin: Stamp, until: Stamp, open_bill: OpenBill) -> np.ndarray:
    """Return the figures between two moments of this rank's workers: [R, 5], the loss left 0."""
    bill, ledger = open_bill.close(), open_bill.ledger
    compute_s = ledger.clock.seconds(begin, until) - bill.elsewhere_s
    if ledger.modelled:  # workers that take turns here would compute side by side
        compute_s /= ledger.R
    rest = (bill.transfer_s, bill.wire_bytes)
    return np.array([[0.0, compute_s, rest[0], sent, rest[1]] for sent in bill.payload_bytes])


def _check_finite(rows: list[_Row], losses: np.ndarray, tolerant: bool) -> None:
    """Raise if a loss [K, n] is not finite, naming the first round and the workers."""
    bad = ~np.isfinite(losses)
    if tolerant:  # unless there is nobody left
        bad &= bad.all(axis=0)
    if not bad.any():
        return
    i = int(np.argmax(bad.any(0)))
    workers = ", ".join(str(k) for k in np.flatnonzero(bad[:, i]))
    row = rows[i]
    raise Diverged(
        f"the training loss of worker {workers} is not finite in round {row.s} "
        f"(steps {row.end - row.H} to {row.end - 1}, learning rate {row.lr:g}): "
        "lower --rate.lr, lengthen --rate.warmup or shorten the rounds"
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
