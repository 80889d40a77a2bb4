"""Digits with Horovod: `horovodrun -np 2 python <this file>`."""

import horovod.torch as hvd
import torch
from digits import EPOCHS, loader_of, make_model, show_accuracy

import hpc_localsgd
from hpc_localsgd import post_local

hvd.init()
loader = loader_of(hvd.rank(), hvd.size())
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

if hvd.rank() == 0:
    show_accuracy(model)
