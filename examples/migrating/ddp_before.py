"""Digits with torch.distributed: `torchrun --nproc-per-node 2 <this file>`."""

import torch
import torch.distributed as dist
from digits import EPOCHS, loader_of, make_model, show_accuracy
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group()
loader = loader_of(dist.get_rank(), dist.get_world_size())
model = make_model()
model = DistributedDataParallel(model)
node, _ = dist.new_subgroups(group_size=2)
state = PostLocalSGDState(process_group=None, subgroup=node, start_localSGD_iter=60)
model.register_comm_hook(state, post_localSGD_hook)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
averager = PeriodicModelAverager(period=16, warmup_steps=60)
optimizer = PostLocalSGDOptimizer(optim=optimizer, averager=averager)

for _ in range(EPOCHS):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

if dist.get_rank() == 0:
    show_accuracy(model)
dist.destroy_process_group()
