"""Runs that never ran, with curves that look like those of runs that did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_localsgd.trajectory import Header, Trajectory, Writer


def synthetic(
    folder: Path,
    K: int = 4,
    steps: int = 1500,
    switch: int = 450,
    H: int = 8,
    decays: bool = True,
    evaluations: int = 16,
    spread: bool = True,
    train: bool = True,
    step_s: float = 0.012,
    grow: bool = False,
    gossip: bool = False,
    status: str = "complete",
) -> Trajectory:
    """A run of Post-local SGD: rounds of one step up to `switch`, of `H` after it."""
    random = np.random.default_rng(0)
    schedule = f"post_local(switch={switch}, every={H})"
    config = {
        "config": "seed: 0",
        "task": "digits(model=mlp)",
        "algorithm": "local_sgd(momentum=keep)",
    }
    header = Header(
        **config, schedule=schedule, world=f"horovod({K})", K=K, P=85_002, seed=0, clock="measured"
    )
    slow = 1 + 0.15 * random.random(K)
    with Writer(folder, header, mode="overwrite", flush_every_s=1e9) as writer:
        t, due = 0, 0
        while t < steps:
            if evaluations and t >= due:
                _evaluate(writer, t, steps, random)
                due += steps / evaluations
            rate = _rate(t, steps) if decays else 0.1
            h = 1 if t < switch else min(H * (4 if grow and t > 0.6 * steps else 1), steps - t)
            compute = h * step_s * slow * random.lognormal(0, 0.06, K)
            wait = (compute.max() - compute) if K > 1 else np.zeros(K)
            writer.round(
                step_begin=t,
                step_end=t + h,
                lr=rate,
                compute_s=compute,
                wait_s=wait,
                transfer_s=0.006 * random.lognormal(0, 0.1, K) * (K > 1),
                payload_bytes=4 * 85_002,
            )
            if spread:
                noise = (
                    0.0 if h == 1 and not gossip else 40 * rate**2 * h * random.lognormal(0, 0.12)
                )
                writer.series("spread", t + h, noise, meaning="before the exchange")
            for i in range(t + 1, t + h + 1) if train else ():
                loss = 2.3 * np.exp(-6 * i / steps) + 0.03 * (1 if rate > 0.05 else 0.4)
                value = loss * random.lognormal(0, 0.25, K)
                writer.series("train/loss", i, value, units="nats", dims="worker")
            t += h
        if evaluations:
            _evaluate(writer, steps, steps, random)
        writer.close(status)
    return Trajectory(folder)


def _rate(t: int, steps: int) -> float:
    """The learning rate of a step, which falls to a tenth twice."""
    return 0.1 * (0.1 if t > 0.6 * steps else 1) * (0.1 if t > 0.85 * steps else 1)


def _evaluate(writer: Writer, t: int, steps: int, random: Any) -> None:
    course = np.exp(-9 * t / steps)
    writer.series("eval/test/loss", t, 0.09 + 2.2 * course + 0.01 * random.random(), units="nats")
    accuracy = 0.975 - 0.87 * course + 0.004 * random.normal()
    writer.series("eval/test/accuracy", t, accuracy, units="fraction")
