"""Tasks on images of a folder or a pack, and why one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.imagenet import imagenet

CONTEXT = TaskContext(workers=2, local_workers=(0, 1), batch=5, seed=4)
SPEC = imagenet(model="resnet8", size=16, classes=4, loaders=0)


def built(data: Path, **options: Any) -> Any:
    task = replace(SPEC, data=str(data), **options).build(CONTEXT)
    task.x[:] = task.init(0)
    return task


def refusal(data: Path, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        built(data, **options)
    return str(caught.value)


def all_batches(task: Any) -> None:
    for t in range(4):  # an epoch
        batch = task.batch([0, 1], t)
        assert (batch[1] >= 0).all()
        task.loss_and_grad(task.x, batch)
