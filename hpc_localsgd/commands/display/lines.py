"""A line of the log of a run, and the live line of a terminal: fields, the weightiest first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS
from hpc_localsgd.commands.display.state import SPREAD, State
from hpc_localsgd.cost.formatting import human_seconds


@dataclass(frozen=True)
class Field:
    """A value of a line.

    Attributes:
        key: As it is searched for: `loss`, `elapsed_s`.
        value: As a machine reads it, without spaces.
        text: As a person reads it.
        rank: The lower, the longer it stays on a line that gets too narrow.
        step: At which it was measured.
    """

    key: str
    value: str
    text: str
    rank: int
    step: int


def log_line(state: State) -> str:
    """Return a line for a person, of what is known and was not on the line before."""
    return "  ".join([time.strftime("%H:%M:%S"), *(_told(f, state) for f in _new(state))])


def key_values(state: State) -> str:
    """Return a line of `key=value`, of what is known and was not on the line before."""
    words = [f"time={time.strftime('%Y-%m-%dT%H:%M:%S%z')}"]
    for f in _new(state):
        words.append(f"{f.key}={f.value}")
        if f.step != state.t:
            words.append(f"{f.key}_step={f.step}")
    return " ".join(words)


def live_line(state: State, width: int) -> str:
    """Return what fits into so many columns, whole fields only; the step is always there."""
    kept = [f for f in fields(state) if f.key != "elapsed_s"]
    while len(kept) > 1 and len("  ".join(_told(f, state) for f in kept)) > width:
        kept.remove(max(kept, key=lambda f: f.rank))
    return "  ".join(_told(f, state) for f in kept)


def _new(state: State) -> list[Field]:
    return [f for f in fields(state) if f.step > state.since.t or f.step == state.t]


def _told(field: Field, state: State) -> str:
    return field.text + (f" (step {field.step})" if field.step != state.t else "")


def fields(state: State) -> list[Field]:
    """Return the fields of a line about now, in the order in which they stand."""
    s, n = state, len(str(state.steps))
    loss, of_all = s.loss()
    key, whose = ("loss", "") if of_all else ("loss_rank_0", " (rank 0)")
    found = [
        Field("step", str(s.t), f"step {s.t:>{n}}/{s.steps}", 0, s.t),
        Field("steps", str(s.steps), _percent(s.t / max(1, s.steps)), 1, s.t),
        _now(s, "epoch", s.t / s.steps_per_epoch, lambda v: f"epoch {v:.2f}", 9),
        _now(s, "eta_s", s.left_s(), lambda v: f"{human_seconds(v)} left", 2),
        _now(s, key, loss, lambda v: f"loss {v:.3g}{whose}", 3),
        _measured(s, ACCURACY, "test_accuracy", 4),
        _measured(s, TEST_LOSS, "test_loss", 5),
        _now(s, "lr", s.rate, lambda v: f"lr {v:.3g}", 7),
        _now(s, "H", s.H, lambda v: f"H {v:.0f}", 6),
        _now(s, "samples_per_s", s.samples_per_s(), lambda v: f"{v:,.0f} samples/s", 10),
        _now(s, "communication", s.share(), lambda v: f"communication {_percent(v)}", 8),
        _measured(s, SPREAD, "spread", 11),
        _now(s, "elapsed_s", s.elapsed_s(), lambda v: f"{human_seconds(v)} elapsed", 12),
    ]
    return [f for f in found if f is not None]


def _now(
    state: State, key: str, number: float, text: Callable[[float], str], rank: int
) -> Field | None:
    """Return a field about now; None where its number is not known."""
    if not math.isfinite(number):
        return None
    return Field(key, f"{number:.6g}", text(number), rank, state.t)


def _measured(state: State, name: str, key: str, rank: int) -> Field | None:
    """Return the field of a probe's latest value; None if there is none.

    An accuracy of NaN is that of a task which has none; a loss of NaN is news.
    """
    value, step = state.value(name)
    if step < 0 or (name == ACCURACY and not math.isfinite(value)):
        return None
    words = key.replace("_", " ")
    text = f"{words} {100 * value:.2f} %" if name == ACCURACY else f"{words} {value:.3g}"
    return Field(key, f"{value:.6g}", text, rank, step)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
