"""Record a run: what the loop did, what the probes saw, and when to save it.

Everything here is measurement: it happens inside `ledger.unbilled()` and never counts as training
or communication. Ranks exchange their figures only now and then, at steps all of them know.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.engine.non_finite import message
from hpc_localsgd.engine.quarantine import QUARANTINED
from hpc_localsgd.run.finished_rounds import (
    FIGURES,
    LOSS_HERE,
    FinishedRound,
    check_finite,
    figures_between,
    shown_of,
)
from hpc_localsgd.run.probes import Measurement, Probe, Spread, View
from hpc_localsgd.run.stderr import say
from hpc_localsgd.trajectory import NotWritten, RecordGone, TrajectoryError

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.trajectory import Writer
    from hpc_localsgd.types import Losses, Now

DRAIN_EVERY = 32  # steps between two exchanges of the ranks' own figures
CLOSE_WITHIN_S = 3.0
LOOK_EVERY_S = 1.0  # between two glances at the loss for the display, in the middle of a round


class Recorder:
    """Collector of the rows of a run, for the writer (on rank 0) and the display.

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
        log: Callable[[int, dict[str, float]], None] = lambda t, values: None,
    ) -> None:
        """Watch a run.

        Args:
            run: The run.
            probes: What is measured at steps.
            spread: The probe around an exchange.
            writer: Where it is written; None on ranks other than 0.
            show: Called with the step and the latest values, for a progress display.
            log: Called with what is written, for live curves; where there is a writer.
        """
        self.run, self.probes, self.writer = run, tuple(probes), writer
        self.spread = spread or Spread(every=0)
        self._show, self._log = show, log
        self._rows: list[FinishedRound] = []
        self._loss: Losses | None = None
        self._newest: Losses | None = None  # of the step just taken
        self._t, self._looked_s = 0, time.monotonic()
        self._ledger = run.world.ledger
        self._began = self._ledger.clock.stamp()
        self._ledger.take()  # what was sent before the run is not part of a round
        self._before = np.zeros((run.world.R, FIGURES))  # of a round begun by another job
        self._resumed = False
        self._tolerant = False  # of single workers whose loss is not finite
        self._writing = threading.Lock()
        self._closed = False
        self.gone = ""  # what happened to the record, if it is not there any more

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: rounds not written yet, and the current one."""
        cost, until = self._ledger.so_far(), self._ledger.clock.stamp()
        so_far = self._before + figures_between(self._began, until, cost)
        return {
            "rows": [row.state() for row in self._rows],
            "loss": self._loss,
            "so_far": torch.from_numpy(so_far),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the record of another job, unless nothing was recorded at this place."""
        if not state:
            return
        self._rows = [FinishedRound.saved(row) for row in state["rows"]]
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
        """Show that the run continues, without asking other ranks: a round may last for hours."""
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
        self._tolerant = QUARANTINED in p.state
        with self._ledger.unbilled():
            if p.t // DRAIN_EVERY > p.begin // DRAIN_EVERY or p.t == self.run.steps:
                self.drain()

    def _quarantined(self, p: Position, now: Now) -> Iterator[Measurement]:
        """Yield which workers were left out of the exchange, if any."""
        flags = p.state.get(QUARANTINED)
        if not flags:
            return
        if self.run.world.rank == 0:
            say(message(np.array(flags), f"round {now.s}, step {p.t}"))
        meaning = "1: left out of the exchange, its numbers were not finite"
        yield Measurement(QUARANTINED, np.array(flags, float), "1", ("worker",), meaning)

    def _row(self, p: Position, now: Now) -> FinishedRound:
        """Return the round that ends now; the next one begins."""
        began, before, loss = self._began, self._before, self._loss
        assert loss is not None
        until, cost = self._ledger.clock.stamp(), self._ledger.take()
        self._loss, self._began, self._before = None, until, np.zeros_like(before)

        def figures() -> np.ndarray:
            found = before + figures_between(began, until, cost)
            found[:, 0] = (loss / now.H).double().cpu().numpy()
            return found

        return FinishedRound(now.s, now.H, p.t, now.lr_round, figures)

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
        self._show(rows[-1].end, shown_of(rows, figures.mean(axis=0)))
        check_finite(rows, figures[:, :, 0], self._tolerant)

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
            say(str(error))
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
                say(f"{error} Training continues.")
                return False
            except RecordGone as error:
                self.gone = str(error)  # the run stops at the end of this step
                return False
        return True

    def _write_round(self, row: FinishedRound, figures: np.ndarray) -> None:
        """Write a row of /rounds and of train/loss from the figures [K, 5] of all workers."""
        assert self.writer is not None
        loss, compute_s, exchange_s, payload, wire = figures.T
        # The rank that arrived last did not wait: its time is the transfer, the rest waiting.
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
        curves = {
            "train/loss": loss,
            "rounds/compute_s": compute_s,
            "rounds/transfer_s": transfer_s,
        }
        curves |= {"rounds/wait_s": exchange_s - transfer_s, "rounds/payload_bytes": payload}
        means = {name: float(each.mean()) for name, each in curves.items()}
        self._log(row.end, {**means, "rounds/lr": row.lr, "rounds/local_steps": float(row.H)})

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
                said: dict[str, Any] = {"units": m.units, "dims": m.dims, "meaning": m.meaning}
                said |= {"samples": m.samples} if m.samples else {}
                self._to_writer(self.writer.series, m.name, t, m.value, **said)
        if shown:
            self._show(t, shown)
            if self.writer is not None:
                self._log(t, shown)
