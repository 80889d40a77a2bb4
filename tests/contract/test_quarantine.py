"""A worker whose numbers are not finite is left out, and continues from the mean of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Memory, go, sgd, small_run
from variants import DEFAULTS, name, schedule_for

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.non_finite import replace_by_mean
from hpc_localsgd.engine.quarantine import QuarantinedAlgorithm
from hpc_localsgd.loop import Run, train
from hpc_localsgd.run.finished_rounds import Diverged
from hpc_localsgd.run.probes import Deviations, Spread
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.worlds.simulated import Simulated

NAN = float("nan")


def quarantined(run: Run) -> Run:
    return replace(run, algorithm=QuarantinedAlgorithm(run.algorithm, run.optimizer, run.task))


def with_bad_gradients(run: Run, bad: set[tuple[int, int]]) -> Run:
    """The gradient of (step, worker) is not finite, and so is its loss."""
    original, steps = run.task.loss_and_grad, iter(range(run.steps))

    def spoiled(x: Any, batch: Any) -> Any:
        loss, g = original(x, batch)
        t = next(steps)
        for at, worker in bad:
            if at == t:
                loss[worker], g[worker, 3] = NAN, NAN
        return loss, g

    run.task.loss_and_grad = spoiled  # type: ignore[method-assign]
    return run


def test_the_mean_of_the_others_takes_its_place() -> None:
    x = torch.tensor([[1.0, 2.0], [NAN, 5.0], [3.0, 6.0]], dtype=torch.float64)
    replace_by_mean(x, np.array([False, True, False]), Simulated(3))
    torch.testing.assert_close(x[1], torch.tensor([2.0, 4.0], dtype=torch.float64))
    assert x[0].tolist() == [1, 2] and x[2].tolist() == [3, 6]


def test_a_round_of_one_worker_astray_is_the_average_of_the_others() -> None:
    options: dict[str, Any] = {"H": 4, "steps": 4, "K": 3}
    algorithm = LocalSGD(average="parameters")
    run = quarantined(with_bad_gradients(small_run(**options, algorithm=algorithm), {(2, 1)}))
    memory = Memory()
    p, _ = go(run, memory=memory)
    apart: list[torch.Tensor] = []

    class Before(LocalSGD):
        def on_sync(self, x: Any, state: Any, world: Any, now: Any) -> Any:
            apart.append(x.clone())
            return super().on_sync(x, state, world, now)

    go(small_run(**options, algorithm=Before(average="parameters")))
    torch.testing.assert_close(p.x[0], apart[0][[0, 2]].mean(0), rtol=0, atol=1e-14)
    assert memory.values["quarantined"][0][0] == 4
    assert memory.values["quarantined"][0][1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("algorithm", DEFAULTS, ids=name)
def test_with_every_algorithm_the_run_goes_on_with_finite_numbers(
    algorithm: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"H": schedule_for(algorithm), "steps": 18, "lr": 0.05}
    options |= {"algorithm": algorithm, "optimizer": sgd(momentum=0.9)}
    run = quarantined(with_bad_gradients(small_run(**options), {(2, 0), (9, 1), (16, 1), (16, 2)}))
    memory = Memory()
    p, _ = go(run, memory=memory)
    assert p.x.isfinite().all()
    assert all(t.isfinite().all() for t in run.optimizer.row_state())
    assert len(memory.rounds) == len(go(small_run(**options))[1].rounds)
    single = algorithm.only_single_steps or isinstance(algorithm, AllReduce)
    assert ("the numbers of worker" in capfd.readouterr().err) != single


def test_healthy_workers_are_not_touched() -> None:
    options: dict[str, Any] = {"H": 3, "steps": 9}
    plain = go(small_run(**options))[0].x.clone()
    assert torch.equal(go(quarantined(small_run(**options)))[0].x, plain)


def test_when_all_are_astray_the_run_has_diverged() -> None:
    run = quarantined(with_bad_gradients(small_run(K=2, H=2, steps=8), {(2, 0), (2, 1)}))
    with pytest.raises(Diverged, match="worker 0, 1"):
        go(run)


def test_it_is_called_as_its_algorithm() -> None:
    run = small_run(algorithm=LocalSGD(average="parameters"))
    assert repr(quarantined(run).algorithm) == "LocalSGD(average='parameters')"


def test_what_is_taken_from_workers_astray_is_no_number_and_ends_no_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A spread of 0 would say that they agree, and LAPACK raises where a number is not finite."""
    run = quarantined(with_bad_gradients(small_run(H=4, steps=12, K=3), {(5, 1)}))
    p, memory = run.beginning(), Memory()
    train(run, p, Recorder(run, (), Spread(1, (Deviations(1),)), memory))  # type: ignore[arg-type]
    for series in ("spread", "xi/trace", "xi/gap"):
        values = [float(value) for _, value in memory.values[series]]
        assert np.isfinite(values).tolist() == [True, False, True]
    assert "worker 1" in capfd.readouterr().err


def test_a_worker_left_out_does_not_shrink_an_average_of_momenta() -> None:
    """It has no momentum of its own, and zero is not the others' either."""
    options: dict[str, Any] = {"H": 4, "steps": 4, "K": 3, "optimizer": sgd(momentum=0.9)}
    run = quarantined(with_bad_gradients(small_run(**options, at_sync="average"), {(2, 1)}))
    go(run)
    kept = small_run(**options)
    go(kept)
    [alone] = [t[[0, 2]].mean(0) for t in kept.optimizer.row_state()[:1]]
    for row in run.optimizer.row_state()[0]:
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-14)
