"""A step between two syncs: the bare loop, `attach`, the trainer; and who waits for the device."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from loops import FOREVER, model_of, run_of
from models import SUBJECTS, Subject
from on_gpu.section import Bench, Section, table
from on_gpu.steps import trained
from torch.nn.functional import cross_entropy

import hpc_localsgd
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.worlds.simulated import Simulated

WATCHED = 20  # steps in which waits of the host are counted


def section(bench: Bench) -> Section:
    """Time the three loops in turns, and count where the host waits for the device."""
    names = ["conv"] if bench.quick else ["conv", "mlp", *_of_torchvision()]
    rows, data, wrong = [], {}, []
    for name in names:
        subject = SUBJECTS[name].on(bench.device)
        running = [loop(subject, bench.device) for loop in (bare, attach, trainer)]
        loops = {loop.__name__: partial(next, loop) for loop in running}
        times = in_turns(bench, loops)
        waits = {loop: _waits(bench, step) for loop, step in loops.items()}
        for loop in running:
            loop.close()
        bare_s = times["bare"]
        for loop, mine in times.items():
            ratio = statistics.median(a / b for a, b in zip(mine, bare_s, strict=True))
            said = "not counted" if waits[loop] is None else str(waits[loop])
            ms = 1000 * statistics.median(mine)
            rows.append([f"{name}, {loop}", f"{ms:.3f}", f"{ratio:.3f}", said])
            data[f"{name}, {loop}"] = {"ms": ms, "x bare": ratio, "host waits": waits[loop]}
            if waits[loop]:
                wrong.append(f"{loop} waits for the device in steps of {name}: {waits[loop]} times")
    heads = ["", "ms a step", "x bare", f"host waits in {WATCHED} steps"]
    note = "Target: 1.02 x the bare loop, by the device's clock, and a host that never waits."
    return Section(f"{note}\n\n{table(heads, rows)}", data, wrong)


def _of_torchvision() -> list[str]:
    """Return the models of torchvision, where it is installed."""
    return ["resnet18"] if find_spec("torchvision") else []


def in_turns(bench: Bench, loops: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of a step of each loop in each of the turns, taken in both orders."""
    calls = {name: bench.calls(step) for name, step in loops.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(2 if bench.quick else 20):
        for name in loops if turn % 2 else reversed(loops):
            times[name].append(bench.seconds(loops[name], calls[name]))
    return times


def _waits(bench: Bench, step: Callable[[], Any]) -> int | None:
    """Return how often the host waits for the GPU in some steps; None where there is none."""
    if not bench.on_gpu:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(WATCHED):
                step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def _batches(subject: Subject, device: torch.device) -> Iterator[Any]:
    inputs, labels = (part.to(device) for part in subject.data())
    order = torch.randperm(len(labels)).to(device).split(subject.batch)
    while True:
        for index in order:
            yield inputs[index], labels[index]


def bare(subject: Subject, device: torch.device) -> Generator[None]:
    """Take steps with PyTorch alone."""
    model, sgd = model_of(subject, device)
    for x, y in _batches(subject, device):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        sgd.step()
        yield


def attach(subject: Subject, device: torch.device) -> Generator[None]:
    """Take steps of the same loop with `hpc_localsgd.attach`."""
    model, sgd = model_of(subject, device)
    sync = hpc_localsgd.attach(model, sgd, schedule=every(FOREVER), world=Simulated(1, device))
    try:
        for x, y in _batches(subject, device):
            sgd.zero_grad()
            cross_entropy(model(x), y).backward()
            sgd.step()
            sync.step()
            yield
    finally:
        sync.detach()


def trainer(subject: Subject, device: torch.device) -> Generator[None]:
    """Take steps of the trainer's loop, with its recorder."""
    run = run_of(subject, FOREVER, Simulated(1, device), Classification)
    record, p = Recorder(run), run.beginning()
    while True:
        p = trained(run, p, record, p.t + 1)
        yield
