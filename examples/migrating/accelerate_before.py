"""Digits with accelerate: `torchrun --nproc-per-node 2 <this file>`."""

import torch
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from digits import EPOCHS, loader_of, make_model, show_accuracy

accelerator = Accelerator(cpu=True)
loader = accelerator.prepare(loader_of(0, 1))
model = make_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
model, optimizer = accelerator.prepare(model, optimizer)

with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=8) as local_sgd:
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            local_sgd.step()

if accelerator.is_main_process:
    show_accuracy(model)
accelerator.wait_for_everyone()  # a rank that ends before the others may abort
accelerator.end_training()
