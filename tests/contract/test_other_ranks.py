"""A run that goes on with other ranks is the same run: workers move, with all that is theirs.

4 ranks, then 3, 2 and 4 again, as threads of this process; for every algorithm without being told.
"""

# ruff: noqa: E402 - the path is set before rank_threads is imported
from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Dropping, adam, go, small_run
from variants import VARIANTS, name, run_of

sys.path.append(str(Path(__file__).parents[1] / "attach"))  # its ranks, which are threads
from rank_threads import ThreadWorld, on_ranks

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.compressors import Int8
from hpc_localsgd.engine.quarantine import QuarantinedAlgorithm
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.run.checkpoint.catching_up import catch_up
from hpc_localsgd.run.checkpoint.vetting import check_place
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.tasks.execution import LossScale
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated

K, STEPS = 8, 18
MAKING = threading.Lock()  # models begin, and drop out, by random numbers of the whole process
# Ranks, and the step of a round at which they are stopped.
LEGS = [(4, 7), (3, 10), (2, 15), (4, STEPS)]
Make = Callable[[World], Run]


class Stopped(Exception):
    """Raised after a given step."""


def made(make: Make, world: World) -> Run:
    """A run, made by one thread at a time, and before any of them trains."""
    with MAKING:
        run = make(world)
    world.gather(np.zeros(world.R))
    return run


def until(run: Run, p: Position, at: int) -> Position:
    """Where a run is after `at` steps."""

    def keep(now: Position) -> None:
        if now.t == at:
            raise Stopped(now)

    try:
        return train(run, p, Recorder(run), keep)
    except Stopped as stopped:
        place: Position = stopped.args[0]
        return place


def resumed(run: Run, checkpoints: Checkpoints) -> Position:
    """A run at its last checkpoint, as `commands/resuming.py` puts it there."""
    place, p = checkpoints.load(), run.beginning()
    check_place(place, run, p)
    with MAKING:  # it has the generator of the process too
        p = place.restore(run, p)
    catch_up(run, p, place)
    p.state = run.algorithm.resume(p.state, run.world)
    return p


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
    check(lambda world: run_of(algorithm, steps=STEPS, world=world), tmp_path)


@pytest.mark.parametrize("at_sync", ["keep", "average", "reset"])
def test_the_optimisers_state_moves_with_its_worker(at_sync: str, tmp_path: Path) -> None:
    check(
        lambda world: small_run(
            H=4, steps=STEPS, world=world, optimizer=adam(), lr=0.01, at_sync=at_sync
        ),
        tmp_path,
    )


def one_at_a_time(run: Run) -> Run:
    """A run whose threads do not draw at the same time from the generator of the process."""
    plain = run.task.loss_and_grad

    def loss_and_grad(x: torch.Tensor, batch: Any) -> Any:
        with MAKING:
            return plain(x, batch)

    run.task.loss_and_grad = loss_and_grad  # type: ignore[method-assign]
    return run


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
        run = run_of(algorithm, steps=6, world=Simulated(workers))
        p = until(run, run.beginning(), 6)
        found = states({k: v for k, v in p.state.items() if not hasattr(v, "wait")})
        R = run.world.R
        assert all(len(t) == R for _, t in found if t.ndim > 1), "a matrix without a row a worker"
        kept.append({at: tuple(t.shape) for at, t in found if t.ndim <= 1})
    assert kept[0] == kept[1], "a vector that depends on the workers: make it [R, 1]"


@pytest.mark.parametrize("H", [12, 5], ids="H={}".format)
@pytest.mark.parametrize("spec", [None, Dropping()], ids=["digits", "dropout"])
def test_workers_that_were_behind_take_the_steps_they_lack(
    spec: Dropping | None, H: int, tmp_path: Path
) -> None:
    """Rank r of 4 was saved after step 5 + r: in a round, or the first one after an exchange."""

    def make(world: World) -> Run:
        how = {"steps": STEPS, "world": world, "optimizer": adam(), "lr": 0.01}
        return one_at_a_time(small_run(spec=spec, H=every(H), **how))

    def saved(world: ThreadWorld) -> None:
        run = made(make, world)
        p = until(run, run.beginning(), 5 + world.rank)
        loss = None if p.due else torch.ones(2)
        record = {"rows": [], "loss": loss, "so_far": torch.zeros(2, 5)}
        place = RankCheckpoint.of(run, p, after=5 // H * H, record=record)
        Checkpoints(tmp_path, world).save(place)

    on_ranks(4, saved, workers=K)

    def gone_on(world: ThreadWorld) -> tuple[list[int], torch.Tensor]:
        run = made(make, world)
        p = resumed(run, Checkpoints(tmp_path, world))
        t = p.t
        return [t] * len(p.x), train(run, p, Recorder(run)).x.clone()

    found = on_ranks(3, gone_on, workers=K)
    assert [t for ts, _ in found for t in ts] == [6, 6, 6, 7, 7, 7, 8, 8]
    alone = go(make(Simulated(K)))[0].x
    torch.testing.assert_close(torch.cat([x for _, x in found]), alone, rtol=0, atol=1e-12)


def test_losses_of_steps_taken_twice_are_recorded_once(tmp_path: Path) -> None:
    """Rank r of 4 was saved after step 1 + r, with a recorded loss of 0 so far."""

    def make(world: World) -> Run:
        return small_run(H=every(12), steps=12, world=world)

    def saved(world: ThreadWorld) -> None:
        run = made(make, world)
        p = until(run, run.beginning(), 1 + world.rank)
        record = {"rows": [], "loss": torch.zeros(2), "so_far": torch.zeros(2, 5)}
        Checkpoints(tmp_path, world).save(RankCheckpoint.of(run, p, after=0, record=record))

    on_ranks(4, saved, workers=K)
    run = make(Simulated(K))
    place, p = Checkpoints(tmp_path, run.world).load(), run.beginning()
    catch_up(run, place.restore(run, p), place)
    loss = place.state["record"]["loss"]
    assert loss[6:].tolist() == [0, 0] and (loss[:6] > 0).all()
    assert loss[0] > loss[2] > loss[4]  # those that were further behind took more steps


def test_what_came_by_a_codec_reaches_workers_that_had_not_used_it(tmp_path: Path) -> None:
    """Rank r of 4 was saved after step 15 - r, and the fragment is used in step 14."""
    algorithm = StreamingDiLoCo(fragments=2, delay=2, keep_local=0.5, compressor=Int8())

    def make(world: World) -> Run:
        return small_run(H=every(12), steps=24, world=world, algorithm=algorithm)

    def saved(world: ThreadWorld) -> None:
        run = made(make, world)
        p = until(run, run.beginning(), 15 - world.rank)
        record = {"rows": [], "loss": torch.ones(2), "so_far": torch.zeros(2, 5)}
        Checkpoints(tmp_path, world).save(RankCheckpoint.of(run, p, after=12, record=record))

    def gone_on(world: ThreadWorld) -> torch.Tensor:
        run = made(make, world)
        return train(run, resumed(run, Checkpoints(tmp_path, world)), Recorder(run)).x.clone()

    on_ranks(4, saved, workers=K)
    alone = go(make(Simulated(K)))[0].x
    found = torch.cat(on_ranks(3, gone_on, workers=K))
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("draws", [False, True])
def test_that_dropout_draws_anew_is_said(
    draws: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(world: ThreadWorld) -> None:
        run = made(lambda w: run_of(LocalSGD(), steps=STEPS, world=w), world)
        drawn = torch.Generator().manual_seed(world.rank)
        if draws:
            torch.rand(1, generator=drawn)
        place = RankCheckpoint.of(run, until(run, run.beginning(), 7), after=4)
        place.state["rng"] = drawn.get_state()
        Checkpoints(tmp_path, world).save(place)

    on_ranks(4, work, workers=K)
    on_ranks(3, lambda world: Checkpoints(tmp_path, world).load(), workers=K)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and ("dropout" in said) is draws
    assert ("draw at once" in said) is draws
    assert "the same 8 workers continue, 3 on 2 ranks and 2 on 1" in said


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_streams_that_a_checkpoint_has_not_are_said_in_one_line(
    older: bool, draws: bool, n: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Earlier versions had the process's generator alone, in which a lone worker goes on."""
    world, spec = Simulated(n), Dropping() if draws else None
    run = small_run(spec=spec, world=world, H=4, steps=STEPS)
    torch.manual_seed(3)
    place = RankCheckpoint.of(run, until(run, run.beginning(), 4), after=4)
    if older:
        place.state["task"].pop("draws")
        if draws:
            torch.rand(1)
        place.state["rng"] = torch.get_rng_state()
    Checkpoints(tmp_path, world).save(place)
    resumed(small_run(spec=spec, world=world, H=4, steps=STEPS), Checkpoints(tmp_path, world))
    said = capfd.readouterr().err
    assert said.count("(dropout) starts over from the seed") == (older and draws and n > 1)
    assert said.count("\n") <= 1


@pytest.mark.parametrize("bad", ["missing", "of another run", "of other workers"])
def test_bad_shards_are_refused_on_all_ranks(bad: str, tmp_path: Path) -> None:
    """Before any rank exchanges more than what is wrong, though not all of them open the shard."""

    def make(world: World) -> Run:
        return run_of(LocalSGD(), steps=STEPS, world=world)

    def saved(world: ThreadWorld) -> None:
        run = made(make, world)
        digest = "another" if bad == "of another run" and world.rank == 3 else "ours"
        p = until(run, run.beginning(), 7)
        path = Checkpoints(tmp_path, world, digest=digest).save(RankCheckpoint.of(run, p, after=4))
        if bad == "missing" and world.rank == 3:
            path.write_bytes(b"")

    on_ranks(4, saved, workers=6 if bad == "of other workers" else K)

    def refused(world: ThreadWorld) -> str:
        with pytest.raises(ConfigurationError) as error:
            Checkpoints(tmp_path, world, digest="ours").load()
        return str(error.value)

    said = on_ranks(3, refused, workers=K)
    why = {
        "missing": "is damaged",
        "of another run": "another configuration",
        "of other workers": "is not of 8 workers",
    }
    assert len(set(said)) == 1 and why[bad] in said[0]
