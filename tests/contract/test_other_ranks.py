"""A run that goes on with other ranks is the same run: workers move, with all that is theirs.

3 ranks, then 2 and 4, as threads of this process; for every algorithm without being told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from moving_runs import K, Make, made, one_at_a_time, resumed, until
from rank_threads import ThreadWorld, on_ranks
from small_runs import Dropping, adam, go, small_run
from variants import VARIANTS, built_once, name, run_of

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.quarantine import QuarantinedAlgorithm
from hpc_localsgd.loop import Run
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.tasks.execution import LossScale
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated

STEPS = 14
# Ranks, and the step of a round at which they are stopped. No number comes twice: tasks that are
# built once have seen nothing of the run that a checkpoint should have told them.
LEGS = [(3, 7), (2, 10), (4, STEPS)]


def leg(make: Make, world: ThreadWorld, out: Path, begin: bool, at: int) -> torch.Tensor:
    """Resume, unless it is the beginning; run to a step; save. The rows of this rank."""
    run, checkpoints = made(make, world), Checkpoints(out, world)
    p = until(run, run.beginning() if begin else resumed(run, checkpoints), at)
    checkpoints.save(RankCheckpoint.of(run, p, after=at))
    return p.x.clone()


def on_all_legs(make: Make, out: Path) -> torch.Tensor:
    """The rows [K, P] of all workers at the end of a run that moved."""
    for i, (n, at) in enumerate(LEGS):

        def work(world: ThreadWorld, first: bool = i == 0, at: int = at) -> torch.Tensor:
            return leg(make, world, out, first, at)

        rows = on_ranks(n, work, workers=K)
    return torch.cat(rows)


def check(make: Make, out: Path) -> None:
    """Compare the end of a run that moved with that of one that was left alone."""
    alone = go(make(Simulated(K)))[0].x
    apart = (on_all_legs(make, out) - alone).abs().max() / alone.abs().max()
    assert apart < 1e-12


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_a_run_that_moves_is_the_undisturbed_run(algorithm: Any, tmp_path: Path) -> None:
    spec = built_once()
    check(lambda world: run_of(algorithm, spec=spec, steps=STEPS, world=world), tmp_path)


@pytest.mark.parametrize("at_sync", ["keep", "average", "reset"])
def test_the_optimisers_state_moves_with_its_worker(at_sync: str, tmp_path: Path) -> None:
    check(
        lambda world: small_run(
            H=4, steps=STEPS, world=world, optimizer=adam(), lr=0.01, at_sync=at_sync
        ),
        tmp_path,
    )


def test_what_a_worker_draws_moves_with_it(tmp_path: Path) -> None:
    """Dropout."""
    check(
        lambda world: one_at_a_time(small_run(spec=Dropping(), H=4, steps=STEPS, world=world)),
        tmp_path,
    )


def test_what_a_task_counts_of_a_worker_moves_with_it(tmp_path: Path) -> None:
    """The factor on its loss in fp16, its steps since that was changed, its damaged samples."""

    def counted(world: World) -> tuple[Run, Any, list[int]]:
        run = made(lambda w: run_of(LocalSGD(), steps=STEPS, world=w), world)
        task: Any = run.task
        task._replicas.scale = LossScale(world.R, world.device)
        task.samples.skipped = [0] * world.R
        return run, task._replicas.scale, task.samples.skipped

    def saved(world: ThreadWorld) -> None:
        run, scale, skipped = counted(world)
        p = run.beginning()
        for r, k in enumerate(world.local_workers):
            scale.factor[r], scale.good[r], skipped[r] = 2.0**k, 100 + k, 10 + k
        Checkpoints(tmp_path, world).save(RankCheckpoint.of(run, p, after=0))

    def moved(world: ThreadWorld) -> list[tuple[float, float, int]]:
        run, scale, skipped = counted(world)
        resumed(run, Checkpoints(tmp_path, world))
        return list(zip(scale.factor.tolist(), scale.good.tolist(), skipped, strict=True))

    on_ranks(4, saved, workers=K)
    found = [row for rows in on_ranks(3, moved, workers=K) for row in rows]
    assert found == [(2.0**k, 100 + k, 10 + k) for k in range(K)]


def test_a_run_with_workers_in_quarantine_moves(tmp_path: Path) -> None:
    def make(world: World) -> Run:
        run = run_of(LocalSGD(), steps=STEPS, world=world)
        watched = QuarantinedAlgorithm(LocalSGD(), run.optimizer, run.task)
        return Run(**{**vars(run), "algorithm": watched})

    check(make, tmp_path)


def states(value: Any, at: str = "") -> list[tuple[str, torch.Tensor]]:
    """Every tensor of an algorithm's state, with its place in it."""
    if isinstance(value, torch.Tensor):
        return [(at, value)]
    inside = value.items() if isinstance(value, dict) else ()
    return [found for key, each in inside for found in states(each, f"{at}.{key}")]


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_what_is_remembered_of_a_worker_is_a_row_of_a_matrix(algorithm: Any) -> None:
    """Vectors are the same on all ranks: so one can be told from the other without a list."""
    kept: list[dict[str, tuple[int, ...]]] = []
    for workers in (4, 8):
        run = run_of(algorithm, spec=built_once(), steps=6, world=Simulated(workers))
        p = until(run, run.beginning(), 6)
        found = states({k: v for k, v in p.state.items() if not hasattr(v, "wait")})
        R = run.world.R
        assert all(len(t) == R for _, t in found if t.ndim > 1), "a matrix without a row a worker"
        kept.append({at: tuple(t.shape) for at, t in found if t.ndim <= 1})
    assert kept[0] == kept[1], "a vector that depends on the workers: make it [R, 1]"
