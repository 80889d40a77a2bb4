"""Digits with accelerate: `torchrun --nproc-per-node 2 <this file>`."""

import torch
from accelerate import Accelerator
from digits import EPOCHS, loader_of, make_model, show_accuracy

import hpc_localsgd
from hpc_localsgd import every

accelerator = Accelerator(cpu=True)
loader = accelerator.prepare(loader_of(0, 1))
model = make_model().to(accelerator.device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

with hpc_localsgd.attach(model, optimizer, schedule=every(8)) as sync:
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sync.step()

if accelerator.is_main_process:
    show_accuracy(model)
accelerator.wait_for_everyone()  # a rank that ends before the others may abort
accelerator.end_training()
