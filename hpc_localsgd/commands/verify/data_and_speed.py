"""Whether the workers together see every sample once, and how fast they average."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Literal

import numpy as np
import torch

from hpc_localsgd.commands.verify.harness import Harness
from hpc_localsgd.commands.verify.problem import SEED
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.worlds.base import World

COVERED = "Every sample once an epoch, over all workers: samples that are not"
SPEED = "For information"
SAMPLES, BATCH, EPOCHS = 1009, 7, 3  # a prime: no epoch is a whole number of steps
NBYTES, REPEATS, WARM_UP = 4_000_000, 5, 2


def coverage(bench: Harness) -> None:
    """Check both ways to end an epoch."""
    bench.check(
        COVERED,
        f"{SAMPLES} samples, {EPOCHS} epochs, remainder carried",
        0,
        partial(_uncovered, bench.world),
    )
    bench.check(
        COVERED,
        f"{SAMPLES} samples, {EPOCHS} epochs, remainder dropped",
        0,
        partial(_repeated, bench.world),
    )


def bandwidth(bench: Harness) -> None:
    """Measure the median of a few averages, of the slowest rank."""
    world = bench.world
    x = torch.zeros(world.R, NBYTES // 4, device=world.device)
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        begin = time.perf_counter()
        world.mean(x)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds[WARM_UP:])
    slowest = float(world.gather(np.full((world.R, 1), median)).max())
    bench.inform(SPEED, f"average of 4 MB over {world.K} workers, MB/s", NBYTES / slowest / 1e6)


def _uncovered(world: World) -> int:
    """Count the departures from permutations in the workers' batches laid end to end."""
    steps = -(-SAMPLES * EPOCHS // (world.K * BATCH))
    used = _dealt(world, "carry", steps).reshape(-1)[: SAMPLES * EPOCHS]
    counts = [np.bincount(epoch, minlength=SAMPLES) for epoch in used.reshape(EPOCHS, SAMPLES)]
    return int(sum((count != 1).sum() for count in counts))


def _repeated(world: World) -> int:
    """Count the samples that occur twice in an epoch, or are left out without need."""
    steps = SAMPLES // (world.K * BATCH)
    used = _dealt(world, "drop", steps * EPOCHS).reshape(EPOCHS, -1)
    left = SAMPLES - steps * world.K * BATCH
    counts = [np.bincount(epoch, minlength=SAMPLES) for epoch in used]
    return int(sum((c > 1).sum() + abs(int((c == 0).sum()) - left) for c in counts))


def _dealt(world: World, remainder: Literal["carry", "drop"], steps: int) -> np.ndarray:
    """Return the samples of all workers, [steps, K, batch]; each rank says which it would use."""
    dealt = Partition(SAMPLES, world.K, BATCH, SEED, remainder=remainder)
    own = [[dealt.indices(worker, t) for t in range(steps)] for worker in world.local_workers]
    return world.gather(np.array(own)).swapaxes(0, 1)
