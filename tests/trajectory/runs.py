"""Small runs to write and read; the numbers are functions of the step, so a reader can check
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_localsgd.trajectory import Header, Writer

REPOSITORY = Path(__file__).parents[2]


def header(K: int = 3, P: int = 5, **given: Any) -> Header:
    facts = {"config": "seed: 7\nschedule: {every: 4}\n", "task": "digits(mlp)"}
    facts |= {"algorithm": "local_sgd()", "schedule": "every(4)", "world": f"simulated(K={K})"}
    return Header(**(facts | {"K": K, "P": P, "seed": 7} | given))


def add_round(writer: Writer, s: int, H: int = 4) -> None:
    """Round `s` of H steps: worker k computes `s + k` seconds."""
    writer.round(
        step_begin=s * H,
        step_end=(s + 1) * H,
        lr=0.1,
        compute_s=s + np.arange(writer.header.K),
        wait_s=0.5,
        transfer_s=0.25,
        payload_bytes=4 * writer.header.P,
    )


def write_run(path: Path, rounds: range, mode: Any = "new", **given: Any) -> Path:
    with Writer(path, header(**given), mode=mode) as writer:
        for s in rounds:
            add_round(writer, s)
            writer.series("train/loss", 4 * (s + 1), 1 / (s + 1), units="nats")
            writer.series("spread", 4 * (s + 1), float(s))
    return writer.path
