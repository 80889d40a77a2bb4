"""Who draws from torch's random numbers: what belongs to dropout stays dropout's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_runs import Dropping, go, small_run
from small_tasks import files
from torch import nn

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.run.probes import Evaluation
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.draws import seed_of
from hpc_localsgd.tasks.imagenet import imagenet
from hpc_localsgd.worlds.simulated import Simulated


@pytest.fixture
def gpu_seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the random numbers of GPUs would be begun with, in order, were there any."""
    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    return seen


def test_the_dropout_of_a_rank_on_a_gpu_is_its_own(gpu_seeds: list[int]) -> None:
    make_run(parse(["--task.hidden=8", "--seed=5", "--steps=4"]), Simulated(2))
    assert gpu_seeds == [5 * 1_000_003]  # and 1 more on the next rank; not the model's seed


def test_a_task_leaves_the_random_numbers_of_gpus_alone(gpu_seeds: list[int]) -> None:
    spec = imagenet(
        model="resnet8", data=str(files("imagenet")), size=16, classes=4, loaders=0, rand_augment=5
    )
    before = torch.get_rng_state()
    task = spec.build(TaskContext(workers=2, local_workers=(0, 1), batch=5))
    task.x[:] = task.init(3)
    task.batch([0, 1], 0)
    assert gpu_seeds == []
    assert torch.equal(torch.get_rng_state(), before)


@dataclass(frozen=True)
class Regularised(TaskSpec):
    """Noise to be learnt by heart, through BatchNorm and dropout."""

    def build(self, context: TaskContext) -> Classification:
        stream = np.random.default_rng(0)
        split = stream.standard_normal((64, 6)), stream.integers(3, size=64)
        return Classification(self.module, {"train": split, "test": split}, context)

    @staticmethod
    def module() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_evaluations_do_not_change_what_dropout_draws_in_training() -> None:
    def parameters(every: int) -> torch.Tensor:
        torch.manual_seed(1)
        batchnorm = BatchNorm("reestimate", batches=8)
        run = small_run(spec=Regularised(), K=2, H=2, steps=6, batchnorm=batchnorm)
        return go(run, [Evaluation(every)])[0].x.clone()

    seldom = parameters(0)
    assert torch.equal(parameters(1), seldom)
    assert torch.equal(parameters(2), seldom)


def gradients(ranks: range, steps: int = 3) -> torch.Tensor:
    """What workers of one process, of four in all, compute in a few steps at the same point."""
    task = Dropping().build(TaskContext(4, ranks, batch=8, seed=5, dtype=torch.float64))
    torch.manual_seed(seed_of(5, ranks[0]))  # as `make_run` does
    task.x[:] = task.init(5)
    taken = [task.loss_and_grad(task.x, task.batch(ranks, t))[1].clone() for t in range(steps)]
    return torch.stack(taken, dim=1)


def test_no_two_workers_and_no_two_runs_have_the_same_stream() -> None:
    seeds = [seed_of(seed, worker) for seed in (0, 1, 2, 12_345) for worker in range(5000)]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= seed_of(2**62, 7) < 2**63  # what torch takes
    assert seed_of(2**62, 7) != seed_of(2**62, 8)


@pytest.mark.parametrize("R", [1, 2, 3])
def test_a_worker_draws_the_same_with_whomever_it_shares_a_process(R: int) -> None:
    together = gradients(range(4))
    apart = [gradients(range(k, min(4, k + R))) for k in range(0, 4, R)]
    assert torch.equal(torch.cat(apart), together)
    assert not torch.equal(together[:, 0], gradients(range(4), 1)[[1, 2, 3, 0], 0])


def test_a_row_that_is_no_state_of_a_generator_is_refused() -> None:
    task = Dropping().build(TaskContext(2, (0, 1), batch=8))
    state = {**task.state_dict(), "draws": torch.zeros_like(task.state_dict()["draws"])}
    with pytest.raises(RuntimeError):
        task.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_draws_its_model_once_and_the_same_is_drawn_again(dtype: torch.dtype) -> None:
    made = list[nn.Module]()

    def make() -> nn.Module:
        made.append(Regularised.module())
        return made[-1]

    split = np.zeros((16, 6)), np.zeros(16, dtype=int)
    task = Classification(make, {"train": split}, TaskContext(workers=1, seed=3, dtype=dtype))
    first = task.init(3)
    assert len(made) == 1  # of a large model it takes seconds
    task.x.zero_()
    first_again = task.init(3)
    assert len(made) == 2 and torch.equal(first, first_again) and first.any()
    assert first.data_ptr() != first_again.data_ptr()
    assert not torch.equal(task.init(4), first)
    other = Classification(make, {"train": split}, TaskContext(workers=1, seed=4, dtype=dtype))
    assert torch.equal(other.init(3), first)
