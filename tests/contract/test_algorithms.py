"""What holds for every file in `algorithms/`. A new file is tested without being listed here."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, quadratic, sgd
from variants import DEFAULTS, VARIANTS, built_once, name, run_of

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.algorithms.cocod import CoCoD
from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.edit import EDiT
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum
from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.algorithms.overlap import Overlap
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.compressors import Int4, Sign, TopK
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import RankCheckpoint, shard
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import every, post_local
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.topology import (
    base_graph,
    complete,
    one_peer_exponential,
    random_pairs,
    ring,
)
from hpc_localsgd.types import Now

local = LocalSGD(average="parameters")
# A single worker does something else than its local optimiser: (why)
NOT_ALONE = {
    SlowMo: "slow momentum acts on one worker too (Lookahead, heavy ball)",
    EDiT: "the outer optimiser acts on one worker too",
    DiLoCo: "the outer optimiser acts on one worker too",
    StreamingDiLoCo: "the outer optimiser acts on one worker too",
    LocalSignMomentum: "a worker steps along signs, alone too",
    NoLoCo: "outer momentum acts on one worker too",
    Overlap: "a worker is pulled to its own late anchor",
}
STEPS, STOPPED = 14, (8, 11)
INF = float("inf")
# No gradient is 0, and a rate that float32, the scale's type, has exactly.
SIGN_SGD = {"H": every(1), "optimizer": sgd(), "spec": quadratic(noise=1.0, dim=9), "lr": 2**-5}
DOUBLY = (ring(), one_peer_exponential(), base_graph())
# The `Equals:` lines of the docstrings: (algorithm, what it equals, options of both runs)
EQUALS: list[tuple[Algorithm, Algorithm, dict[str, Any]]] = [
    (AllReduce(), LocalSGD(), {"H": every(1)}),
    (AllReduce(), local, {"H": every(1)}),
    (LocalSGD(), local, {"H": every(1)}),
    (Hierarchical(blocks=(2,), rounds=(1,)), local, {}),
    (Hierarchical(blocks=(2,), rounds=(4,), parallel_first=True), local, {"H": every(1)}),
    (SlowMo(alpha=1.0, beta=0.0), local, {}),
    (DiLoCo(lr=1.0, momentum=0.0), local, {}),
    (StreamingDiLoCo(fragments=1), DiLoCo(), {}),
    (StreamingDiLoCo(fragments=1, lr=1.0, momentum=0.0), local, {}),
    (EDiT(threshold=INF, clip=INF), DiLoCo(lr=0.8, momentum=0.85), {"K": 1}),
    (SlowMo(alpha=1.0, beta=0.0, compressor=TopK(0.1)), LocalSGD("parameters", TopK(0.1)), {}),
    (StreamingDiLoCo(fragments=1, compressor=Sign()), DiLoCo(compressor=Sign()), {}),
    (Hierarchical((2,), (1,), compressor=Int4()), LocalSGD("parameters", Int4()), {}),
    (LocalSignMomentum(), LocalSignMomentum(compressor=None), SIGN_SGD),
    (Choco(gamma=1.0, compressor=None), Gossip(), {}),
    (CoCoD(), local, {"K": 1}),
    (Gossip(topology=complete()), local, {}),
    (D2(topology=complete()), local, {}),
    *((PushSum(topology=graph), Gossip(topology=graph), {}) for graph in DOUBLY),
    (PushSum(topology=complete()), local, {}),
    (NoLoCo(alpha=0.0, beta=1.0, gamma=1.0), Gossip(topology=random_pairs()), {"K": 5}),
    (GradientTracking(topology=complete()), AllReduce(), {"H": every(1)}),
]


def short_run(algorithm: Algorithm, use: str = "", **options: Any) -> Run:
    """Three rounds of local steps after the parallel ones; four small workers go faster in turn."""
    how = Execution(replicas="loop")
    return run_of(algorithm, STEPS, spec=built_once(use=use), execution=how, **options)


def outcome(algorithm: Algorithm, **options: Any) -> torch.Tensor:
    """The mean model [P] at the end of a run."""
    options = {"execution": Execution(replicas="loop"), "spec": built_once()} | options
    run = run_of(algorithm, **options)
    p, _ = go(run)
    return algorithm.readout(p.x, p.state, run.world)


@pytest.mark.parametrize("algorithm", DEFAULTS, ids=name)
def test_its_docstring_says_what_a_reader_needs(algorithm: Algorithm) -> None:
    text = inspect.getdoc(type(algorithm)) or ""
    for part in ("<-", "Source:", "Sends:", "Equals:"):
        assert part in text, f"{type(algorithm).__name__} does not say {part}"
    assert len(inspect.getsource(inspect.getmodule(type(algorithm))).splitlines()) <= 120


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_it_is_a_frozen_value_with_a_legend(algorithm: Any) -> None:
    assert replace(algorithm) == algorithm
    assert repr(algorithm).startswith(type(algorithm).__name__ + "(")
    with pytest.raises(AttributeError):
        algorithm.anything = 1


@pytest.mark.parametrize("algorithm", DEFAULTS, ids=name)
def test_one_worker_is_plain_training(algorithm: Algorithm) -> None:
    if type(algorithm) in NOT_ALONE:
        different = outcome(algorithm, K=1) - outcome(AllReduce(), K=1)
        assert different.abs().max() > 1e-6, "documented as different, and is not"
        return
    torch.testing.assert_close(
        outcome(algorithm, K=1), outcome(AllReduce(), K=1), rtol=0, atol=1e-13
    )


def described(value: Any) -> str:
    """For the list of tests, which has to be the same in every process: without an address."""
    return ",".join(value) if isinstance(value, dict) else name(value)


@pytest.mark.parametrize(("one", "other", "options"), EQUALS, ids=described)
def test_it_equals_what_its_docstring_says(one: Any, other: Any, options: dict[str, Any]) -> None:
    apart = (outcome(one, **options) - outcome(other, **options)).abs().max()
    assert apart < 1e-12


def test_overlap_without_pull_is_one_shot_averaging() -> None:
    one_round = outcome(local, H=every(18))
    late = outcome(Overlap(pull=0.0, beta=0.0), H=every(3))
    torch.testing.assert_close(late, one_round, rtol=0, atol=1e-12)


def test_slowmo_of_one_worker_and_one_step_is_heavy_ball() -> None:
    slow = outcome(SlowMo(beta=0.6), K=1, H=every(1), optimizer=sgd())
    heavy = outcome(AllReduce(), K=1, H=every(1), optimizer=sgd(momentum=0.6))
    torch.testing.assert_close(slow, heavy, rtol=0, atol=1e-12)


def test_every_equals_line_is_in_the_table() -> None:
    tested = {type(one) for one, _, _ in EQUALS} | {Overlap}
    assert tested == {type(algorithm) for algorithm in DEFAULTS}


class Watching:
    """A recorder that sees, round by round, whether what the algorithm declares of it is so."""

    def __init__(self, run: Run) -> None:
        self.run, self.model = run, run.task.model_size
        self.rounds = 0
        run.world.ledger.take()

    def after_step(self, loss: torch.Tensor) -> None: ...

    def before_sync(self, p: Position, now: Now) -> None: ...

    def measure(self, p: Position) -> None: ...

    def after_sync(self, p: Position, now: Now) -> None:
        algorithm, world = self.run.algorithm, self.run.world
        declared = np.asarray(algorithm.payload(self.model, world.K, now), float)
        billed = world.ledger.take().payload_bytes
        np.testing.assert_array_equal(billed, np.broadcast_to(declared, world.K))
        if algorithm.ends_equal:
            assert (p.x - p.x[0]).abs().max() < 1e-13
        self.rounds += 1


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_rounds_are_what_is_declared_and_storage_and_dtype_are_kept(algorithm: Algorithm) -> None:
    """The ledger has the payload; workers that are said to end equal do; x stays where it is."""
    run = short_run(algorithm)
    before, record = run.task.x.data_ptr(), Watching(run)
    p = train(run, run.beginning(), record)  # type: ignore[arg-type]
    assert record.rounds > 4
    assert p.x.data_ptr() == before and p.x.dtype == torch.float64 and p.x.isfinite().all()


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_in_single_precision_storage_and_dtype_are_kept(algorithm: Algorithm) -> None:
    run = short_run(algorithm, dtype=torch.float32)
    before = run.task.x.data_ptr()
    p, _ = go(run)
    assert p.x.data_ptr() == before and p.x.dtype == torch.float32 and p.x.isfinite().all()


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_interrupted_and_resumed_is_uninterrupted_bitwise(
    algorithm: Algorithm, tmp_path: Path
) -> None:
    """At the end of a round and inside one, by runs that have seen nothing of the first."""
    whole = short_run(algorithm, "whole")
    x = train(whole, whole.beginning(), Keeping(whole, tmp_path)).x
    for at in STOPPED:
        again = short_run(algorithm, f"resumed at {at}")
        place = RankCheckpoint.saved(shard.read(tmp_path / f"{at}.pt"))
        q = place.restore(again, again.beginning())
        q.state = algorithm.resume(q.state, again.world)
        assert q.t == at
        assert torch.equal(train(again, q, Recorder(again)).x, x), f"stopped at {at}"


class Keeping(Recorder):
    """Saves where a run is at the steps `STOPPED`."""

    def __init__(self, run: Run, folder: Path) -> None:
        super().__init__(run)
        self.folder = folder

    def measure(self, p: Position) -> None:
        if p.t in STOPPED:
            shard.write(self.folder / f"{p.t}.pt", RankCheckpoint.of(self.run, p, after=0).state)


def test_single_steps_are_hierarchical_unless_they_are_the_parallel_phase() -> None:
    """Post-local SGD with blocks: 3 parallel steps, then rounds of 2 steps."""
    algorithm = Hierarchical(blocks=(2,), rounds=(4,), parallel_first=True)
    options: dict[str, Any] = {"H": post_local(switch=3, every=2), "steps": 3}
    assert torch.equal(outcome(algorithm, **options), outcome(local, **options))
    phase = [Now(t=s, s=s, H=1, h=0, lr=0.1, lr_round=0.1, parallel=True) for s in range(3)]
    after = [Now(t=2 * s - 2, s=s, H=2, h=1, lr=0.1, lr_round=0.1) for s in range(3, 9)]
    assert [algorithm.level(now) for now in phase + after] == [1, 1, 1, 1, 0, 0, 0, 1, 0]
    plain = replace(algorithm, parallel_first=False)
    assert [plain.level(now) for now in phase + after] == [0, 0, 0, 1, 0, 0, 0, 1, 0]
