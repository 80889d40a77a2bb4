"""Every gradient method in a run: over ranks, what it bills, and stopped and resumed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from folder_of_methods import CONV, METHODS, MLP, K, every, gradient, task_of, wrapped
from small_runs import go, sgd, small_run

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.transport import Alone


class Threads(Alone):
    """Ranks that are threads of this process; they can only average."""

    def __init__(self, rank: int, n: int, table: dict[int, Any], meeting: Any) -> None:
        self.rank, self.n, self.table, self.meeting = rank, n, table, meeting

    def average(self, v: torch.Tensor, ranks: int) -> None:
        self.table[self.rank] = v.clone()
        self.meeting.wait()
        v[:] = torch.stack([self.table[rank] for rank in range(self.n)]).mean(0)
        self.meeting.wait()


class Threaded(World):
    def __repr__(self) -> str:
        return f"threads({self.n})"


def on_threads(n: int, work: Callable[[World], list[torch.Tensor]]) -> list[torch.Tensor]:
    """What n ranks of K / n workers work out, their rows put together again."""
    table: dict[int, Any] = {}
    results: dict[int, list[torch.Tensor]] = {}
    meeting = threading.Barrier(n, timeout=30)

    def rank(i: int) -> None:
        try:
            transport = Threads(i, n, table, meeting)
            results[i] = work(Threaded(K, transport, torch.device("cpu")))
        except BaseException:
            meeting.abort()
            raise

    threads = [threading.Thread(target=rank, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [torch.cat(rows) for rows in zip(*(results[i] for i in range(n)), strict=True)]


@every(METHODS)
@pytest.mark.parametrize("n", [2, 4])
def test_ranks_times_workers(method: GradientAt, n: int) -> None:
    R = K // n  # made here, because torch's global random numbers are shared by the threads
    tasks = [task_of(workers=range(i * R, (i + 1) * R)) for i in range(n)]

    def work(world: World) -> list[torch.Tensor]:
        return gradient(wrapped(method, tasks[world.rank], world), workers=world.local_workers)

    together = gradient(wrapped(method, task_of()))
    for ours, expected in zip(on_threads(n, work), together, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@every(METHODS)
@pytest.mark.parametrize("k", [1, 4])
def test_what_is_sent_is_billed(method: GradientAt, k: int) -> None:
    world = Simulated(k)
    task = MLP.build(TaskContext(k, range(k), batch=8))
    ours = wrapped(method, task, world)
    for t in range(3):
        gradient(ours, t, range(k))
    cost = world.ledger.take().close()
    assert (cost.payload_bytes == 3 * method.payload(ModelSize(task.sizes), k)).all()


def run_of(method: GradientAt, **options: Any) -> Run:
    run = small_run(**{"H": 4, "steps": 30, "lr": 0.2, **options})
    return replace(run, task=method.wrap(run.task, run.world, 0))


@every(METHODS)
def test_a_run_of_local_sgd(method: GradientAt) -> None:
    run = run_of(method)
    p, memory = go(run)
    assert p.x is run.task.x and torch.isfinite(p.x).all()
    assert all(torch.equal(row, p.x[0]) for row in p.x)
    losses = [value.mean() for _, value in memory.values["train/loss"]]
    assert losses[-1] < 0.7 * losses[0]
    model = ModelSize(run.task.sizes, 8)
    last = Now(t=29, s=7, H=2, h=1, lr=0.2, lr_round=0.2, last=True)
    expected = LocalSGD().payload(model, K, last) + 2 * method.payload(model, K)
    assert (memory.rounds[-1]["payload_bytes"] == expected).all()


class Interrupted(Exception):
    pass


class Interrupt:
    """A record that ends a run after step 6, in the middle of a round."""

    position: Position

    def after_step(self, loss: torch.Tensor) -> None: ...

    def before_sync(self, p: Position, now: Now) -> None: ...

    def after_sync(self, p: Position, now: Now) -> None: ...

    def measure(self, p: Position) -> None:
        self.position = p
        if p.t == 6:
            raise Interrupted


@every(METHODS)
def test_interrupted_and_resumed_is_uninterrupted(method: GradientAt) -> None:
    options: dict[str, Any] = {"spec": CONV, "steps": 10, "optimizer": sgd(momentum=0.9)}
    whole, broken, resumed = (run_of(method, **options) for _ in range(3))
    expected, _ = go(whole)
    record = Interrupt()
    p = broken.beginning()
    with pytest.raises(Interrupted):
        train(broken, p, record)  # type: ignore[arg-type]
    resumed.task.x.copy_(broken.task.x)
    resumed.task.buffers.copy_(broken.task.buffers)
    resumed.optimizer.load_state_dict(broken.optimizer.state_dict())
    p = replace(record.position, x=resumed.task.x)
    p = train(resumed, p, type("Deaf", (Interrupt,), {"measure": lambda self, p: None})())
    assert torch.equal(p.x, expected.x)
    assert torch.equal(resumed.task.buffers, whole.task.buffers)
