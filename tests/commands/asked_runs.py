"""Runs that are recorded by hand, and what `whatif` answers about them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.whatif import command
from hpc_localsgd.commands.whatif.answers import Answer, answers
from hpc_localsgd.commands.whatif.basis import Basis, basis
from hpc_localsgd.trajectory import Header, Trajectory, Writer

OPTIONS = "--task.hidden 8 --workers 4 --steps 12 --schedule every --schedule.steps 3".split()
P = 9000
BYTES = 4 * P


def record(
    folder: Path,
    *words: str,
    lengths: tuple[int, ...] = (3, 3, 3, 3),
    transfer_s: float | dict[int, float] | list[float] = 0.2,
    compute_s: float | list[float] = 0.1,
    clock: str = "measured",
) -> str:
    """A run of four workers on 1600 samples of 16 a step, `compute_s` a step.

    `transfer_s` is of every round, of each, or by its length.
    """
    names = ("digits", "LocalSGD", "every(3)", "mpi(4 workers)")
    length = {"steps": sum(lengths), "steps_per_epoch": 25.0}
    header = Header(text_of(words), *names, K=4, P=P, seed=0, clock=clock, **length)
    with Writer(folder, header) as writer:
        t = 0
        each_s = transfer_s if isinstance(transfer_s, list) else [transfer_s] * len(lengths)
        for H, said_s in zip(lengths, each_s, strict=True):
            seconds = H * np.broadcast_to(np.array(compute_s), 4)
            talked_s = said_s[H] if isinstance(said_s, dict) else said_s
            row = {"compute_s": seconds, "transfer_s": talked_s, "payload_bytes": BYTES}
            writer.round(step_begin=t, step_end=t + H, lr=0.1, wait_s=0.0, **row)
            t += H
        writer.close("complete")
    return str(folder)


@cache
def text_of(words: tuple[str, ...]) -> str:
    """The configuration of a run with these options beside its own."""
    return config.parse([*OPTIONS, *words]).text


@cache
def known(run: str, step_time: float | None) -> Basis:
    """What is known of a run, which is read once for all questions."""
    return basis(Trajectory(run), [], step_time)


def asked(run: str, *words: str) -> list[Answer]:
    """The answers, as the command makes them."""
    at = words.index("--") if "--" in words else len(words)
    options = command.parser().parse_args([run, *words[:at]])
    of_run = known(run, options.step_time)
    return list(answers(of_run, command.question(of_run, options, words[at + 1 :])))


def one(run: str, *words: str) -> Answer:
    (found,) = asked(run, *words)
    return found
