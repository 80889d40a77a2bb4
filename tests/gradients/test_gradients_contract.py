"""What every gradient method must keep, over the files of the folder; there is no list to keep."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from folder_of_methods import (
    CLASSES,
    CONV,
    METHODS,
    MLP,
    MOVING,
    K,
    class_of,
    every,
    gradient,
    same,
    strength,
    task_of,
    wrapped,
)

from hpc_localsgd.commands.configuration.config import choices, parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.gradients.average_direction import average_direction
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.gradients.perturbed import Elsewhere
from hpc_localsgd.gradients.plain import plain
from hpc_localsgd.tasks.base import Task
from hpc_localsgd.tasks.digits import digits


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
