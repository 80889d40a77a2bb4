"""Digits with torch.distributed: `torchrun --nproc-per-node 2 <this file>`."""

import torch
import torch.distributed as dist
from digits import EPOCHS, loader_of, make_model, show_accuracy

import hpc_localsgd
from hpc_localsgd import post_local

dist.init_process_group()
loader = loader_of(dist.get_rank(), dist.get_world_size())
model = make_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
sync = hpc_localsgd.attach(model, optimizer, schedule=post_local(switch=60, every=16))

for _ in range(EPOCHS):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        sync.step()
sync.finish()

if dist.get_rank() == 0:
    show_accuracy(model)
dist.destroy_process_group()
