"""One rank that trains to a target accuracy: `target_ways.py WAY FOLDER SEED`; see time_to_target.

Every way has the same model (10.2 million parameters), data, batches and SGD with momentum. The
clock stands while the test set is looked at. Rank 0 prints a JSON line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hpc_localsgd.tasks.vision import idx_files

WIDTHS = (784, 3000, 2600, 10)
BATCH, LR, MOST_STEPS = 16, 0.02, 484
LOOKED_AT = 2_000  # test images
# Of the local ways; until the switch every step. Set by a seed that is not measured (10), in one
# process: 164 steps to 82 % and 292 to 85 % with H = 16, 196 and 292 with H = 32; with H = 16,
# switches at 2, 16 and 36 change four steps at most; a step that averages takes as long as seven.
H, SWITCH = 32, 4


@dataclass
class Way:
    """What differs: the model that is called, the optimiser, what follows a step."""

    model: nn.Module
    optimizer: Any
    rank: int
    size: int
    after: Callable[[], object] = lambda: None
    averaged: Callable[[], AbstractContextManager[Any]] = nullcontext


def horovod(net: nn.Module, sgd: Any, compressed: bool = False) -> Way:
    """`hvd.DistributedOptimizer`."""
    import horovod.torch as hvd

    hvd.init()
    kind = hvd.Compression.fp16 if compressed else hvd.Compression.none
    named = net.named_parameters()
    optimizer = hvd.DistributedOptimizer(sgd, named_parameters=named, compression=kind)
    return Way(net, optimizer, hvd.rank(), hvd.size())


def horovod_fp16(net: nn.Module, sgd: Any) -> Way:
    """Run the same, sending halves."""
    return horovod(net, sgd, compressed=True)


def ddp(net: nn.Module, sgd: Any, hook: str = "") -> Way:
    """`DistributedDataParallel` over Gloo."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    # Through Gloo the PowerSGD hook works with one bucket only: with several, ranks start its
    # second exchanges in different orders, and torch ends with "Received data size doesn't match".
    bucket_mb = 1000 if hook == "powersgd" else 25
    model = DistributedDataParallel(net, bucket_cap_mb=bucket_mb)
    if hook == "fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    if hook == "powersgd":
        # Exact averages first, as its authors advise; here as long as Post-local SGD has them.
        state = powerSGD_hook.PowerSGDState(None, 4, start_powerSGD_iter=max(2, SWITCH))
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return Way(model, sgd, dist.get_rank(), dist.get_world_size())


def ddp_fp16(net: nn.Module, sgd: Any) -> Way:
    """With torch's fp16 hook."""
    return ddp(net, sgd, "fp16")


def ddp_powersgd(net: nn.Module, sgd: Any) -> Way:
    """With torch's PowerSGD hook, rank 4."""
    return ddp(net, sgd, "powersgd")


def post_local(net: nn.Module, sgd: Any) -> Way:
    """`attach` with Post-local SGD, over the library of the launcher."""
    import hpc_localsgd
    from hpc_localsgd.schedules.local_steps import post_local as schedule

    if "TORCHELASTIC_RUN_ID" in os.environ:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        import horovod.torch as hvd

        hvd.init()
        rank, size = hvd.rank(), hvd.size()
    sync = hpc_localsgd.attach(net, sgd, schedule=schedule(switch=SWITCH, every=H))
    return Way(net, sgd, rank, size, sync.step, sync.averaged)


WAYS = {f.__name__: f for f in (horovod, horovod_fp16, ddp, ddp_fp16, ddp_powersgd, post_local)}


def network() -> nn.Module:
    """Make the perceptron: much to send for little computing."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def data(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read the images as rows of numbers around 0."""
    files = idx_files.find([folder], "")
    if files is None:
        raise SystemExit(f"no Fashion-MNIST in {folder}: apt-get install dataset-fashion-mnist")
    found = {}
    for split, (images, labels) in idx_files.read(files).items():
        x = torch.from_numpy(images).reshape(len(images), -1).float() / 255 - 0.286
        found[split] = x / 0.353, torch.from_numpy(labels).long()
    return found


def batches(way: Way, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Deal one permutation to the ranks, the same for every way."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    mine = order[way.rank :: way.size]
    for t in range(MOST_STEPS):
        yield mine[torch.arange(t * BATCH, (t + 1) * BATCH) % len(mine)]


def accuracy(way: Way, net: nn.Module, test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Evaluate the mean model."""
    with way.averaged(), torch.no_grad():
        guessed = net(test[0][:LOOKED_AT]).argmax(1)
        return float((guessed == test[1][:LOOKED_AT]).float().mean())


def train(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train until the last step; the accuracy at every look with the seconds until then."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net, parts = network(), data(folder)
    way = WAYS[name](net, torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9))
    x, y = parts["train"]
    seconds, looks = 0.0, []
    for t, index in enumerate(batches(way, len(y), seed), start=1):
        began = time.perf_counter()
        way.optimizer.zero_grad()
        cross_entropy(way.model(x[index]), y[index]).backward()
        way.optimizer.step()
        way.after()
        seconds += time.perf_counter() - began
        if (t - SWITCH) % H == 0:  # rounds end there
            looks.append((t, seconds, accuracy(way, net, parts["test"])))
            if looks[-1][2] >= float(os.environ["TIME_TO_TARGET"]):
                break  # the same number on every rank
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rank": way.rank, "looks": looks, "memory_mb": memory}


if __name__ == "__main__":
    found = train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    if found["rank"] == 0:
        os.write(1, (json.dumps(found) + "\n").encode())
