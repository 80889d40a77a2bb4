"""Shards of other ranks that are behind, lack random numbers, or are bad: what is done and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from moving_runs import STEPS, K, made, one_at_a_time, resumed, until
from rank_threads import ThreadWorld, on_ranks
from small_runs import Dropping, adam, go, small_run
from variants import run_of

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.compressors import Int8
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Run, train
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.run.checkpoint.catching_up import catch_up
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated


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
