"""Runs whose workers step by Muon: moments, outer momentum, stopped and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from muon_of_rows import muon
from small_runs import go, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import RankCheckpoint, shard, vetting
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.tasks.digits import digits


def test_its_moments_are_averaged_like_others() -> None:
    run = small_run(spec=digits(), K=2, H=4, steps=8, optimizer=muon, at_sync="average", lr=0.02)
    go(run)
    for each in run.optimizer.torch.state.values():
        for tensor in each.values():
            assert tensor.ndim == 0 or torch.equal(tensor[0], tensor[1])


def test_workers_of_one_step_rounds_are_one_worker_with_all_batches() -> None:
    """Parallel Muon: the averaged gradient is the same, so is its orthogonalised matrix."""
    runs = [
        small_run(spec=digits(), K=2, H=1, steps=6, optimizer=muon, lr=0.02, algorithm=algorithm)
        for algorithm in (AllReduce(), LocalSGD())
    ]
    one, other = (go(run)[0].x for run in runs)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [muon, partial(torch.optim.AdamW, lr=0.02)], ids=["muon", "adam"])
def test_snoo_is_outer_momentum_of_a_lone_worker(make: Any) -> None:
    """K = 1: nothing is sent, and every H steps Nesterov momentum acts on what they did."""
    H, rounds, mu = 3, 4, 0.6
    options = {"spec": digits(), "K": 1, "lr": 0.02, "optimizer": make}
    run = small_run(algorithm=DiLoCo(lr=0.7, momentum=mu), H=H, steps=H * rounds, **options)
    found, memory = go(run)
    assert sum(np.sum(row["payload_bytes"]) for row in memory.rounds) == 0
    of = small_run(H=H, steps=H * rounds, **options)
    of.task.x[:] = of.task.init(0)
    anchor, v = of.task.x.clone(), torch.zeros_like(of.task.x)
    for t in range(H * rounds):
        _, g = of.task.loss_and_grad(of.task.x, of.task.batch([0], t))
        of.optimizer.step(g, of.rate(t))
        if (t + 1) % H == 0:
            delta = anchor - of.task.x
            v = mu * v + delta
            anchor = anchor - 0.7 * (delta + mu * v)
            of.task.x[:] = anchor
    torch.testing.assert_close(found.x, anchor, rtol=0, atol=1e-12)


def test_interrupted_and_resumed_is_uninterrupted_bitwise(tmp_path: Path) -> None:
    """Whatever a checkpoint holds of it is whole, of the run's workers, and goes on."""
    options = {"spec": digits(), "K": 2, "H": 4, "lr": 0.02, "optimizer": muon}
    whole = go(small_run(steps=8, algorithm=DiLoCo(), **options))[0].x.clone()
    first = small_run(steps=8, algorithm=DiLoCo(), **options)
    shard.write(tmp_path / "shard.pt", RankCheckpoint.of(first, until(first, 6), after=0).state)
    second = small_run(steps=8, algorithm=DiLoCo(), **options)
    place = RankCheckpoint.saved(shard.read(tmp_path / "shard.pt"))
    vetting.check_place(place, second, second.beginning())
    q = place.restore(second, second.beginning())
    assert torch.equal(train(second, q, Recorder(second)).x, whole)


class Stop(Exception):
    """Raised after a given step."""


def until(run: Run, at: int) -> Position:
    """The position after `at` steps."""

    class Until(Recorder):
        def measure(self, p: Position) -> None:
            self.place = p
            if p.t == at:
                raise Stop

    record = Until(run)
    with pytest.raises(Stop):
        train(run, run.beginning(), record)
    return record.place
