"""Many simulated workers on one device: all at once by vmap, in a loop, in a compiled loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from on_gpu.section import Bench, Section, table

from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.tasks.synthetic_images import synthetic_images
from hpc_localsgd.tasks.text import text

# Way -> how workers are run; vmap cannot be compiled.
WAYS: dict[str, dict[str, Any]] = {
    "loop": {"replicas": "loop"},
    "vmap": {"replicas": "vmap"},
    "compiled loop": {"replicas": "loop", "compile": True},
}


def models(quick: bool) -> dict[str, tuple[TaskSpec, int]]:
    """Return the models, and the samples a worker takes in a step. No data is needed."""
    if quick:
        small = synthetic_images(model="resnet8_4", norm="group", groups=2, size=8, samples=64)
        return {"ResNet-8": (small, 2), "Transformer": (text(width=8, heads=2, layers=1), 2)}
    resnet = synthetic_images(model="resnet20", norm="group")
    return {"ResNet-20": (resnet, 32), "Transformer": (text(width=256, layers=4), 16)}


def section(bench: Bench) -> Section:
    """Measure samples a second of every model, number of workers, precision and way."""
    until = time.monotonic() + 2.5 * bench.patience_s  # the compiler takes most of it
    rows, data = [], {}
    for name, (spec, batch) in models(bench.quick).items():
        for K, precision in product((2,) if bench.quick else (8, 32), ("float32", "bf16")):
            found = dict(_ways(bench, spec, batch, K, precision, until))
            best = max((v for v in found.values() if isinstance(v, float)), default=0.0)
            cells = [_cell(found[way], best) for way in WAYS]
            rows.append([f"{name}, {K} workers, {precision}", *cells])
            data[f"{name}, {K} workers, {precision}"] = found
    heads = ["samples/s", *WAYS]
    note = "Whole local steps (batch, gradient, SGD with momentum); the fastest way in bold."
    return Section(f"{note}\n\n{table(heads, rows)}", data)


def _cell(value: float | str, best: float) -> str:
    if isinstance(value, str):
        return value
    return f"**{value:,.0f}**" if value == best else f"{value:,.0f}"


def _ways(
    bench: Bench, spec: TaskSpec, batch: int, K: int, precision: str, until: float
) -> Iterator[tuple[str, float | str]]:
    """Yield each way with its samples a second, or why there are none."""
    for way, settings in WAYS.items():
        if bench.quick and "compile" in settings:
            yield way, "not tried: it takes long"
            continue
        if time.monotonic() > until:
            yield way, "not tried: no time left"
            continue
        execution = Execution(precision=precision, **settings)  # type: ignore[arg-type]
        try:
            step = stepper(bench, spec, batch, K, execution)
            yield way, K * batch / bench.median(step)
        except Exception as error:  # a way that a model or this machine does not allow
            yield way, f"fails: {(str(error).splitlines() or [type(error).__name__])[0][:60]}"


def stepper(
    bench: Bench, spec: TaskSpec, batch: int, K: int, execution: Execution
) -> Callable[[], Any]:
    """Return a function that takes a local step of all workers."""
    workers = range(K)
    context = TaskContext(K, workers, batch, device=bench.device, execution=execution)
    task = spec.build(context)
    task.x[:] = task.init(0)
    optimizer = LocalOptimizer(partial(torch.optim.SGD, lr=0.01, momentum=0.9), task)
    data = task.batch(workers, 0)

    def step() -> None:
        _, g = task.loss_and_grad(task.x, data)
        optimizer.step(g, 1e-4)

    return step
