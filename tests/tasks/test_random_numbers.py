"""Who draws from torch's random numbers: what belongs to dropout stays dropout's."""

from __future__ import annotations

import pytest
import torch
from small_tasks import files

from hpc_localsgd.assemble import make_run
from hpc_localsgd.config import parse
from hpc_localsgd.tasks.base import Setting
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
    task = spec.build(Setting(workers=2, ranks=(0, 1), batch=5))
    task.x[:] = task.init(3)
    task.batch([0, 1], 0)
    assert gpu_seeds == []
    assert torch.equal(torch.get_rng_state(), before)
