"""Whole runs on one device: continued bit for bit, and in as much memory as was planned."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from on_gpu.section import Bench, Section, table
from on_gpu.steps import trained

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.plan.planned_run import PlanOptions, planned_run
from hpc_localsgd.commands.plan.rehearsal import Memory, Rehearsal
from hpc_localsgd.cost.cost_model import NETWORKS
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.worlds.simulated import Simulated

ROUNDS = ["--schedule=every", "--schedule.steps=4"]
RESNET = ["--task=synthetic_images", "--task.model=resnet20", "--batch-per-worker=32"]
SMALL = [
    *("--task=synthetic_images", "--task.model=resnet8_4", "--task.size=8"),
    *("--task.samples=64", "--batch-per-worker=4"),
]
RUNS = {
    "ResNet-20, SGD with momentum": [*RESNET, *ROUNDS],
    "ResNet-20, AdamW, bf16, channels last": [
        *(*RESNET, *ROUNDS, "--optimizer=AdamW", "--precision=bf16", "--channels-last=true"),
    ],
    "Transformer, AdamW": ["--task=text", "--optimizer=AdamW", *ROUNDS],
    "Transformer, SlowMo": ["--task=text", "--algorithm=slowmo", *ROUNDS],
}


def continued(bench: Bench) -> Section:
    """Stop runs of four workers in mid-round, continue them in new objects, compare all bits."""
    steps, rows, wrong = 10, [], []
    for name, words in _runs(bench).items():
        resolved = [*words, "--workers=4", f"--steps={steps}"]
        whole = _trained(bench, resolved, steps)
        stopped = _trained(bench, resolved, 6)  # in the middle of the second round
        ended = _trained(bench, resolved, steps, stopped)
        same = torch.equal(whole.state["x"], ended.state["x"])
        rows.append([name, "yes" if same else "**no**"])
        if not same:
            wrong.append(f"{name}: a continued run ends with other bits")
    note = f"Four workers, {steps} steps, stopped after 6, in the middle of a round."
    text = f"{note}\n\n{table(['', 'ends with the same bits'], rows)}"
    return Section(text, {name: answer for name, answer in rows}, wrong)


def memory(bench: Bench) -> Section:
    """Compare the memory that a worker's steps need at most with what `plan` foretells."""
    if not bench.on_gpu:
        return Section("Not measured: a CPU has no counter of it.", {})
    rows, data = [], {}
    for name, words in _runs(bench).items():
        planned = foretold([*words, "--workers=1", "--steps=4"])
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _trained(bench, [*words, "--workers=1", "--steps=4"], 4)
        peak = torch.cuda.max_memory_allocated() - before
        rows.append([name, f"{planned.total / 1e6:,.0f}", f"{peak / 1e6:,.0f}"])
        rows[-1].append(f"{peak / planned.total:.2f}")
        data[name] = {"planned bytes": planned.total, "peak bytes": peak}
    note = (
        "One worker. Planned: parameters, gradients, optimiser, algorithm and activations; data, "
        "workspaces of libraries and what a backward pass holds for a moment come on top."
    )
    heads = ["", "planned, MB", "peak, MB", "peak / planned"]
    return Section(f"{note}\n\n{table(heads, rows)}", data)


def foretold(words: Sequence[str]) -> Memory:
    """Return the bytes that `plan --activations` names for a run."""
    planned = planned_run(config.parse(words), PlanOptions(activations=True), detect(os.environ))
    return Rehearsal(planned, NETWORKS["10GbE"]).memory()


def _runs(bench: Bench) -> dict[str, list[str]]:
    return {"ResNet-8": [*SMALL, *ROUNDS]} if bench.quick else RUNS


def _trained(
    bench: Bench, words: Sequence[str], until: int, begin: RankCheckpoint | None = None
) -> RankCheckpoint:
    """Return the place that a run comes to, from its beginning or from another place."""
    world = Simulated(_workers(words), bench.device)
    run, _ = make_run(config.parse(words), world)
    p = run.beginning()
    if begin is not None:
        p = begin.restore(run, p)
        p.state = run.algorithm.resume(p.state, world)
    return RankCheckpoint.of(run, trained(run, p, Recorder(run), until), 0)


def _workers(words: Sequence[str]) -> int:
    return int(next(w for w in words if w.startswith("--workers=")).partition("=")[2])
