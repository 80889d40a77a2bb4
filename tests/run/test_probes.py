"""What is measured: when, of which model, and without disturbing the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import go, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.compressors import Sign
from hpc_localsgd.loop import Run
from hpc_localsgd.run.probes import Evaluation, Probe, Snapshots
from hpc_localsgd.schedules.local_steps import post_local
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.trajectory import Header, Trajectory, Writer


def by_hand(run: Run, x: torch.Tensor, split: str = "test") -> tuple[float, float]:
    """Loss and accuracy of one model, straight from the data."""
    inputs, labels = run.task.samples._data[split]  # type: ignore[attr-defined]
    logits = torch.func.functional_call(
        run.task._replicas.modules[0],
        run.task.layout.views(x),
        inputs,  # type: ignore[attr-defined]
    )
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return float(loss), float((logits.argmax(1) == labels).double().mean())


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(4, 12, [0, 4, 8, 12]), (5, 12, [0, 5, 10, 12]), (50, 12, [0, 12]), (0, 12, [])],
)
def test_a_probe_is_due_at_its_cadence_and_at_the_end(
    every: int, steps: int, expected: list[int]
) -> None:
    probe: Probe = Snapshots(every)
    assert [t for t in range(steps + 1) if probe.due(t, steps)] == expected


def test_the_mean_model_is_evaluated_on_every_test_sample() -> None:
    run = small_run(H=4, steps=10)
    p, memory = go(run, [Evaluation(every=6, splits=("test", "train"))])
    assert memory.steps("eval/test/loss") == [0, 6, 10]
    for split in ("test", "train"):
        loss, accuracy = by_hand(run, p.x.mean(0), split)
        assert memory.values[f"eval/{split}/loss"][-1][1] == pytest.approx(loss, rel=1e-12)
        assert memory.values[f"eval/{split}/accuracy"][-1][1] == pytest.approx(accuracy, rel=1e-12)


def test_an_evaluation_says_how_many_samples_it_is_of(tmp_path: Path) -> None:
    run = small_run(steps=2)
    header = Header("", "t", "a", "s", "w", K=4, P=run.task.dim, seed=0)
    with Writer(tmp_path, header) as writer:
        go(run, [Evaluation(1, ("test", "train"), per_worker=True)], memory=writer)  # type: ignore[arg-type]
    found = Trajectory(tmp_path)
    for split in ("test", "train"):
        for name in ("loss", "accuracy", "worker_loss", "worker_accuracy"):
            assert found.series(f"eval/{split}/{name}").samples == run.task.splits[split] > 300


def test_in_the_middle_of_a_round_it_is_the_mean_of_workers_that_differ() -> None:
    run = small_run(H=8, steps=8)
    p, memory = go(run, [Snapshots(6, workers=True), Evaluation(6)])
    step, mean, workers = memory.snapshots[1]
    assert step == 6
    assert np.abs(workers - mean).max() > 1e-3
    np.testing.assert_allclose(mean, workers.mean(0), atol=1e-15)
    loss, _ = by_hand(run, torch.from_numpy(mean))
    assert memory.values["eval/test/loss"][1][1] == pytest.approx(loss, rel=1e-12)


def test_every_worker_s_own_model_is_evaluated_when_asked() -> None:
    run = small_run(H=8, steps=8)
    _, memory = go(run, [Snapshots(6, workers=True), Evaluation(6, per_worker=True)])
    workers = torch.from_numpy(memory.snapshots[1][2])
    expected = np.array([by_hand(run, x) for x in workers])
    np.testing.assert_allclose(memory.values["eval/test/worker_loss"][1][1], expected[:, 0])
    np.testing.assert_allclose(memory.values["eval/test/worker_accuracy"][1][1], expected[:, 1])
    assert len(set(expected[:, 0])) == 4
    assert "eval/test/worker_loss" not in go(small_run(steps=2), [Evaluation(1)])[1].values


def test_snapshots_are_copies() -> None:
    p, memory = go(small_run(H=2, steps=4), [Snapshots(2, workers=True)])
    means = [mean for _, mean, _ in memory.snapshots]
    assert [step for step, *_ in memory.snapshots] == [0, 2, 4]
    assert np.abs(means[0] - means[1]).max() > 0 and np.abs(means[1] - means[2]).max() > 0
    np.testing.assert_array_equal(means[-1], p.x[0].numpy())


def test_the_spread_is_read_before_the_exchange_of_rounds_of_local_steps() -> None:
    run = small_run(H=post_local(switch=3, every=4), steps=11)
    _, memory = go(run, [Snapshots(1, workers=True)], spread=1)
    assert memory.steps("spread") == [7, 11]
    assert all(value > 1e-4 for _, value in memory.values["spread"])


def test_the_spread_is_the_mean_squared_distance_from_the_mean() -> None:
    run = small_run(H=4, steps=4)
    before: list[torch.Tensor] = []
    on_sync = type(run.algorithm).on_sync

    class Looking(type(run.algorithm)):  # type: ignore[misc]
        def on_sync(self, x, state, world, now):  # type: ignore[no-untyped-def]
            before.append(x.clone())
            return on_sync(self, x, state, world, now)

    object.__setattr__(run, "algorithm", Looking())
    _, memory = go(run, spread=1)
    x = before[0]
    expected = float((x - x.mean(0)).square().sum(1).mean())
    assert memory.values["spread"][0][1] == pytest.approx(expected, rel=1e-12)


def test_the_spread_has_a_cadence_and_is_always_read_at_the_end() -> None:
    assert go(small_run(H=2, steps=22), spread=8)[1].steps("spread") == [8, 16, 22]
    assert "spread" not in go(small_run(H=2, steps=8), spread=0)[1].values


def test_parallel_sgd_has_no_spread() -> None:
    _, memory = go(small_run(H=4, steps=8, algorithm=AllReduce()), spread=1)
    assert [float(value) for _, value in memory.values["spread"]] == [0.0, 0.0]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_measuring_does_not_change_the_run_or_its_bill(norm: str) -> None:
    spec = digits("conv", norm, hidden=8)  # type: ignore[arg-type]
    probes = [Evaluation(1, per_worker=True), Snapshots(1, workers=True)]
    quiet, silent = go(small_run(spec=spec, H=3, steps=7))
    watched, memory = go(small_run(spec=spec, H=3, steps=7), probes, spread=1)
    assert torch.equal(quiet.x, watched.x)
    for a, b in zip(silent.rounds, memory.rounds, strict=True):
        assert list(a["payload_bytes"]) == list(b["payload_bytes"])
        assert list(a["transfer_s"]) == list(b["transfer_s"])


@pytest.mark.parametrize("algorithm", [SlowMo(beta=0.8), DiLoCo(), LocalSGD(compressor=Sign())])
def test_the_spread_is_of_the_workers_and_not_of_the_outer_step(algorithm: Algorithm) -> None:
    run = small_run(algorithm=algorithm, H=4, steps=4)
    plain = small_run(algorithm=LocalSGD(), H=4, steps=4)
    found, expected = (go(r, spread=1)[1].values["spread"] for r in (run, plain))
    assert found[0][1] == pytest.approx(expected[0][1], rel=1e-12)
