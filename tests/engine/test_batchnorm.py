"""BatchNorm's statistics under the three policies, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_runs import go, small_run

from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.loop import Run
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.digits import digits

SPEC = digits("conv", "batch", hidden=8)


def trained(policy: Any, steps: int = 6, **options: Any) -> Run:
    run = small_run(spec=SPEC, H=3, steps=steps, batchnorm=BatchNorm(policy, 8), **options)
    go(run)
    return run


@pytest.mark.parametrize("policy", ["reestimate", "local"])
def test_workers_keep_their_own_statistics_in_training(policy: str) -> None:
    buffers = trained(policy).task.buffers
    assert (buffers - buffers.mean(0)).abs().max() > 1e-3


def test_the_policy_average_averages_them_at_every_exchange() -> None:
    own, averaged = trained("local", steps=3).task.buffers, trained("average", steps=3).task.buffers
    torch.testing.assert_close(averaged, own.mean(0).expand_as(own), rtol=0, atol=1e-14)


def test_averaged_statistics_are_sent_and_billed() -> None:
    def payload(policy: Any) -> float:
        run = small_run(spec=SPEC, H=3, steps=3, batchnorm=BatchNorm(policy))
        return float(go(run)[1].rounds[0]["payload_bytes"][0]) / 8

    task = trained("local", steps=3).task
    assert task.buffers.shape[1] > 0
    assert payload("local") == payload("reestimate") == task.dim
    assert payload("average") == task.dim + task.buffers.shape[1]


def test_reestimated_statistics_are_those_of_training_batches_of_all_workers() -> None:
    run = trained("reestimate")
    x, task = run.task.x[0], run.task
    found = run.batchnorm.for_evaluation(x, task, run.world)
    first_two = [  # 8 batches for 4 workers
        task.statistics(x, [(i[0], y[0]) for i, y in (task.batch([k], t) for t in range(2))])
        for k in range(4)
    ]
    torch.testing.assert_close(found, torch.stack(first_two).mean(0), rtol=0, atol=1e-14)
    assert (found - task.buffers.mean(0)).abs().max() > 1e-3


@pytest.mark.parametrize("policy", ["local", "average"])
def test_otherwise_the_mean_of_the_workers_statistics_is_used(policy: str) -> None:
    run = trained(policy)
    found = run.batchnorm.for_evaluation(run.task.x[0], run.task, run.world)
    torch.testing.assert_close(found, run.task.buffers.mean(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("policy", ["reestimate", "local", "average"])
def test_an_evaluation_leaves_training_and_the_bill_alone(policy: str) -> None:
    run = trained(policy)
    run.world.ledger.take()
    before = run.task.buffers.clone(), run.task.x.clone()
    run.batchnorm.for_evaluation(run.task.x[0] * 2, run.task, run.world)
    assert torch.equal(run.task.buffers, before[0])
    assert torch.equal(run.task.x, before[1])
    cost = run.world.ledger.take().close()
    assert cost.calls == 0
    assert not cost.payload_bytes.any()


def test_reestimation_uses_at_least_one_batch_of_every_worker() -> None:
    run = trained("reestimate")
    few = BatchNorm("reestimate", 1).for_evaluation(run.task.x[0], run.task, run.world)
    assert torch.isfinite(few).all()
    assert (
        few - BatchNorm("reestimate", 4).for_evaluation(run.task.x[0], run.task, run.world)
    ).abs().max() == 0


@pytest.mark.parametrize("policy", ["reestimate", "local"])
def test_a_single_worker_evaluates_with_its_own_batches_or_statistics(policy: Any) -> None:
    run = trained(policy, K=1)
    found = run.batchnorm.for_evaluation(run.task.x[0], run.task, run.world)
    batches = [(i[0], y[0]) for i, y in (run.task.batch([0], t) for t in range(8))]
    expected = run.task.statistics(run.task.x[0], batches)
    torch.testing.assert_close(found, run.task.buffers[0] if policy == "local" else expected)


def test_a_model_without_batchnorm_has_nothing_to_evaluate_with() -> None:
    run = small_run(steps=2)
    assert run.batchnorm.for_evaluation(run.task.x[0], run.task, run.world).numel() == 0
    assert go(run)[1].rounds[0]["payload_bytes"][0] == 8 * run.task.dim


def test_evaluation_with_reestimated_statistics_beats_stale_ones() -> None:
    """What the policy is for: statistics that belong to the model that is evaluated."""
    run = trained("reestimate", steps=60, batch=16)
    x, rows = run.task.x[0], range(run.task.splits["test"])
    fresh = run.batchnorm.for_evaluation(x, run.task, run.world)
    stale = torch.cat([torch.zeros(16), torch.ones(16), torch.zeros(32), torch.ones(32)]).to(x)
    losses = [float(run.task.evaluate(x, "test", rows, b)[0]) for b in (fresh, stale)]
    assert losses[0] < 0.8 * losses[1]


class Aside(torch.nn.Module):
    """A model with a norm that its forward pass never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(6)
        self.out = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.used(x))


def test_a_norm_that_no_batch_reaches_keeps_its_statistics() -> None:
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).numpy()
    data = {"train": (inputs, torch.arange(20).numpy() % 3)}
    task = Classification(Aside, data, TaskContext(batch=5))
    task.buffers[:] = 7.0
    batch, labels = task.batch([0], 0)
    found = task.statistics(task.x[0], [(batch[0], labels[0])])
    mean, var = batch[0].mean(0), batch[0].var(0)
    torch.testing.assert_close(found, torch.cat([mean, var, torch.full((12,), 7.0)]))
