"""Digits with Horovod: `horovodrun -np 2 python <this file>`."""

import horovod.torch as hvd
import torch
from digits import EPOCHS, loader_of, make_model, show_accuracy

hvd.init()
loader = loader_of(hvd.rank(), hvd.size())
model = make_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)

for _ in range(EPOCHS):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

if hvd.rank() == 0:
    show_accuracy(model)
