"""Many workers in one process: all at once by vmap, in our loop, or one worker after another.

    python benchmarks/workers_in_one_process.py
    python benchmarks/workers_in_one_process.py --device cuda --rounds 10

32 workers on the handwritten digits, whole local steps (batch, gradient, optimiser), one core.
"one after another" is 32 tasks of one worker, each with its optimiser. Targets: the perceptron at
least 4 x faster than that, the convolutional net never slower. What the package chooses by itself
is marked.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any, Literal  # noqa: E402

import torch  # noqa: E402
from reporting import write_report  # noqa: E402
from side_by_side import figures, table  # noqa: E402

from hpc_localsgd.engine.optimizer import LocalOptimizer  # noqa: E402
from hpc_localsgd.tasks.base import TaskContext  # noqa: E402
from hpc_localsgd.tasks.digits import digits  # noqa: E402
from hpc_localsgd.tasks.execution import Execution  # noqa: E402

AGAINST = "one after another"
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
SUBJECTS = {
    "perceptron": (digits("mlp"), 40),  # and steps of a turn
    "convolutional net, GroupNorm": (digits("conv", "group"), 2),
    "convolutional net, BatchNorm": (digits("conv", "batch"), 2),
}
Replicas = Literal["auto", "vmap", "loop"]


def stepper(
    spec: digits, workers: range, K: int, batch: int, replicas: Replicas, device: torch.device
) -> Callable[[int], Any]:
    """Return a function that takes one step of some of the workers."""
    execution = Execution(replicas=replicas)
    task = spec.build(TaskContext(K, workers, batch, device=device, execution=execution))
    task.x[:] = task.init(0)
    optimizer = LocalOptimizer(SGD, task)

    def step(t: int) -> None:
        _, g = task.loss_and_grad(task.x, task.batch(workers, t))
        optimizer.step(g, 0.01)

    step.vmapped = lambda: task._replicas.vmapped  # type: ignore[attr-defined]
    return step


def contestants(
    spec: digits, K: int, batch: int, device: torch.device
) -> tuple[dict[str, Callable[[int], Any]], str]:
    """Return ways to step K workers, and the name of the one the package chooses."""
    alone = [stepper(spec, range(k, k + 1), K, batch, "loop", device) for k in range(K)]
    found: dict[str, Callable[[int], Any]] = {AGAINST: lambda t: [step(t) for step in alone]}
    found["loop"] = stepper(spec, range(K), K, batch, "loop", device)
    if spec.norm != "batch" or spec.model == "mlp":  # vmap cannot keep running statistics
        found["vmap"] = stepper(spec, range(K), K, batch, "vmap", device)
    chosen = stepper(spec, range(K), K, batch, "auto", device)
    chosen(0)
    return found, "vmap" if chosen.vmapped() else "loop"  # type: ignore[attr-defined]


def main() -> None:
    """Time all ways on all subjects and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", type=torch.device, default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts, data = [f"# {options.workers} workers in one process"], {}
    for subject, (spec, steps) in SUBJECTS.items():
        ways, chosen = contestants(spec, options.workers, options.batch, options.device)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for r in range(2 + options.rounds):
            for way in ways if r % 2 else reversed(ways):
                begin = time.perf_counter()
                for t in range(steps):
                    ways[way](t)
                if options.device.type == "cuda":
                    torch.cuda.synchronize()  # the host runs ahead of it
                if r >= 2:
                    times[way].append((time.perf_counter() - begin) / steps)
        found = figures(times, AGAINST)
        text = table(found, AGAINST).replace(f"| {chosen} |", f"| {chosen} (chosen) |")
        times_faster = 1 / found[chosen].ratio
        parts.append(f"## {subject}\n\n{text}\n\nChosen: {times_faster:.2f} x as fast.")
        data[subject] = {"chosen": chosen} | {n: asdict(f) for n, f in found.items()}
    on_gpu = "" if options.device.type == "cpu" else "_gpu"
    write_report(f"workers_in_one_process{on_gpu}", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
