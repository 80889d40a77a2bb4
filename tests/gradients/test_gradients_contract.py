"""What every gradient method must keep, over the files of the folder; there is no list to keep."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

import pytest
import torch
from small_runs import go, sgd, small_run

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.commands.configuration.config import choices, parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.gradients.average_direction import average_direction
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.gradients.perturbed import Elsewhere
from hpc_localsgd.gradients.plain import plain
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.transport import Alone

K = 4
MLP = digits(hidden=8)
CONV = digits(model="conv", norm="batch", hidden=8)  # with running statistics


def class_of(path: str) -> type[GradientAt]:
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


CLASSES = [class_of(path) for path in choices("gradient").values()]
METHODS = [*(made() for made in CLASSES), average_direction(sigma="measured")]
MOVING = [method for method in METHODS if method != plain()]


def strength(method: GradientAt | type[GradientAt]) -> str | None:
    """The field that, at 0, makes a method plain."""
    names = {f.name for f in fields(method)}  # type: ignore[arg-type]
    return next((name for name in ("rho", "sigma") if name in names), None)


def every(methods: Sequence[Any]) -> Any:
    return pytest.mark.parametrize("method", methods, ids=repr)


def task_of(spec: digits = MLP, workers: Sequence[int] = range(K), seed: int = 0) -> Task:
    """Workers of a run of K that are apart from each other, in float64."""
    task = spec.build(TaskContext(K, workers, batch=8, seed=seed, dtype=torch.float64))
    apart = [
        torch.randn(task.dim, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for k in workers
    ]
    task.x[:] = task.init(seed) + 0.01 * torch.stack(apart)
    return task


def wrapped(method: GradientAt, task: Task, world: World | None = None, seed: int = 0) -> Task:
    return method.wrap(task, world or Simulated(K), seed)


def gradient(task: Task, t: int = 7, workers: Sequence[int] = range(K)) -> list[torch.Tensor]:
    """Losses and gradients at the task's own x, copied out of the storage."""
    return [part.clone() for part in task.loss_and_grad(task.x, task.batch(workers, t))]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
@pytest.mark.parametrize("spec", [MLP, CONV], ids=["mlp", "batchnorm"])
def test_a_method_without_strength_is_plain(made: type[GradientAt], spec: digits) -> None:
    name = strength(made)
    method = made(**{name: 0.0}) if name else made()
    expected, ours = task_of(spec), wrapped(method, task_of(spec))
    assert ours is not expected and type(ours) is type(expected)  # no second pass, no draws
    assert same(gradient(ours), gradient(expected))
    assert same([ours.x, ours.buffers], [expected.x, expected.buffers])


@every(MOVING)
def test_a_method_with_strength_is_not(method: GradientAt) -> None:
    assert not torch.equal(gradient(wrapped(method, task_of()))[1], gradient(task_of())[1])


@every(METHODS)
@pytest.mark.parametrize("spec", [MLP, CONV], ids=["mlp", "batchnorm"])
def test_x_is_put_back_bitwise(method: GradientAt, spec: digits) -> None:
    task = task_of(spec)
    task.x[0, :5] = torch.tensor([0.0, -0.0, 1e-300, 1e300, 1e-17], dtype=torch.float64)
    before, storage = task.x.clone(), task.x.data_ptr()
    ours = wrapped(method, task)
    gradient(ours)
    assert torch.equal(ours.x.view(torch.int64), before.view(torch.int64))
    assert ours.x is task.x and ours.x.data_ptr() == storage and ours.buffers is task.buffers


@every(MOVING)
def test_x_is_put_back_when_the_gradient_fails(method: GradientAt) -> None:
    task = task_of()
    before, ours = task.x.clone(), wrapped(method, task)
    inputs, targets = ours.batch(range(K), 0)
    with pytest.raises(RuntimeError):
        ours.loss_and_grad(ours.x, (inputs[..., :3], targets))
    assert torch.equal(task.x, before)


@every(METHODS)
def test_x_may_lie_outside_the_storage(method: GradientAt) -> None:
    expected = gradient(wrapped(method, task_of()))
    ours = wrapped(method, task_of())
    given = ours.x.clone()
    ours.x.zero_()
    x = given.clone()
    assert same(ours.loss_and_grad(x, ours.batch(range(K), 7)), expected)
    assert torch.equal(x, given)


@every(METHODS)
def test_batchnorm_statistics_are_updated_once(method: GradientAt) -> None:
    ours = wrapped(method, task_of(CONV))
    ours.buffers.fill_(
        1e6
    )  # momentum 0.1: 900 000 and a little after one update, 810 000 after two
    gradient(ours)
    assert ours.buffers.min() > 899_000 and ours.buffers.max() < 901_000


@every(METHODS)
def test_it_is_a_function_of_seed_and_step(method: GradientAt) -> None:
    ours = wrapped(method, task_of())
    first = gradient(ours, t=3)
    gradient(ours, t=4)
    ours.statistics(ours.x[0], [])
    ours.batch([1], 0)  # as an evaluation does in between
    assert same(gradient(ours, t=3), first)
    assert same(gradient(wrapped(method, task_of()), t=3), first)


@every([method for method in MOVING if strength(method) == "sigma"])
def test_draws_differ_with_seed_and_step(method: GradientAt) -> None:
    task = task_of()
    batch = task.batch(range(K), 0)

    def drawn(seed: int, t: int) -> torch.Tensor:
        ours = wrapped(method, task, seed=seed)
        ours.batch(range(K), t)
        return ours.loss_and_grad(ours.x, batch)[1].clone()

    assert torch.equal(drawn(0, 0), drawn(0, 0))
    assert not torch.equal(drawn(0, 0), drawn(0, 1))
    assert not torch.equal(drawn(0, 0), drawn(1, 0))


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


@every(MOVING)
def test_all_but_the_gradient_is_the_tasks(method: GradientAt) -> None:
    task = task_of(CONV)
    ours = wrapped(method, task)
    assert isinstance(ours, Elsewhere) and ours.task is task
    for name in inspect.get_annotations(Task):
        assert getattr(ours, name) is getattr(task, name), name
    assert vars(task)["layout"] is ours.__getattr__(
        "layout"
    )  # also what only this kind of task has
    own = {name for name, item in vars(Task).items() if inspect.isfunction(item)}
    own -= {"loss_and_mean_grad"}  # made of loss_and_grad
    passed_on = {name for name in own if name in vars(Elsewhere)}
    assert own == passed_on, "a method of Task that Elsewhere must pass on"
    batch = ours.batch(range(K), 2)
    assert same(batch, task.batch(range(K), 2))
    one = (batch[0][0], batch[1][0])
    assert torch.equal(ours.loss(ours.x[0], one), task.loss(task.x[0], one))
    assert torch.equal(ours.init(3), task.init(3))
    assert torch.equal(ours.statistics(ours.x[0], [one]), task.statistics(task.x[0], [one]))
    named = ours.named_tensors(ours.x[0], ours.buffers[0])
    assert list(named) == list(task.named_tensors(task.x[0], task.buffers[0]))
    assert torch.equal(ours.vector_of(named), task.x[0])
    args = (ours.x[0], "test", range(50), ours.buffers[0])
    assert torch.equal(ours.evaluate(*args), task.evaluate(*args))
    assert same(ours.probabilities(*args), task.probabilities(*args))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = ours.no_such_thing
    assert copy.copy(ours).x is task.x


@every([method for method in MOVING if strength(method) == "sigma"])
def test_a_gradient_without_its_batch_is_refused(method: GradientAt) -> None:
    ours = wrapped(method, task_of())
    batch = ours.task.batch(range(K), 0)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="draw the batch of these 4 workers"):
        ours.loss_and_grad(ours.x, batch)


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


@every(METHODS)
def test_the_repr_makes_it_again(method: GradientAt) -> None:
    assert eval(repr(method), {type(method).__name__: type(method)}) == method


@pytest.mark.parametrize("made", [c for c in CLASSES if strength(c)], ids=lambda c: c.__name__)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(made: type[GradientAt], value: float) -> None:
    name = strength(made)
    with pytest.raises(ConfigurationError, match=f"--gradient.{name} .*{made.__name__}"):
        made(**{str(name): value})


@pytest.mark.parametrize("name", choices("gradient"))
def test_the_command_line_knows_it(name: str) -> None:
    resolved = parse(["--gradient", name])
    assert resolved.config.gradient == class_of(choices("gradient")[name])()
    assert f"gradients.{name}." in resolved.text  # and so does the record


def test_the_command_line_sets_it() -> None:
    def given(*words: str) -> GradientAt:
        return parse(["--gradient", *words]).config.gradient

    assert repr(given("sam", "--gradient.rho", "0.1")) == "sam(rho=0.1)"
    assert given("average_direction", "--gradient.sigma", "0.1") == average_direction(0.1)
    assert given("average_direction", "--gradient.sigma=measured") == average_direction("measured")
    assert parse(["--seed", "1"]).config.gradient == plain()
    with pytest.raises(ConfigurationError, match="did you mean 'sam'"):
        given("samm")
