"""The optimiser of the workers' rows: what takes decay, what is refused, what is remembered."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import adam, quadratic, sgd, small_run

from hpc_localsgd.engine.optimizer import LocalOptimizer, check_by_rows, described, fuse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.digits import digits


def flat_task(dim: int, decayed: int, R: int = 1) -> Task:
    """Rows of ones, of which the first columns take weight decay."""
    task = quadratic(dim=dim).build(TaskContext(R, range(R), dtype=torch.float64))
    task.x.fill_(1.0)
    task.decayed = decayed
    return task


@pytest.mark.parametrize("decayed", [0, 2, 5])
@pytest.mark.parametrize("R", [1, 3])
def test_the_columns_that_take_decay_are_those_the_task_says(decayed: int, R: int) -> None:
    """None, some, or all of them."""
    task = flat_task(5, decayed, R)
    made = LocalOptimizer(sgd(weight_decay=0.5), task)
    made.step(torch.zeros_like(task.x), 0.1)
    expected = torch.ones(R, 5, dtype=torch.float64)
    expected[:, :decayed] = 0.95
    torch.testing.assert_close(task.x, expected, rtol=0, atol=1e-15)


def test_an_optimiser_without_decay_is_not_given_one() -> None:
    made = LocalOptimizer(partial(torch.optim.Rprop, lr=0.1), flat_task(5, 2))
    assert [group.get("weight_decay") for group in made.torch.param_groups] == [None, None]


def test_both_parts_take_the_rate_and_the_gradient_of_their_columns() -> None:
    task = flat_task(4, 1, R=2)
    made = LocalOptimizer(sgd(), task)
    g = torch.arange(8, dtype=torch.float64).view(2, 4)
    made.step(g, 0.25)
    torch.testing.assert_close(task.x, 1 - 0.25 * g, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(torch.optim.SGD, lr=0.1, momentum=-1.0), "--optimizer: Invalid momentum value"),
        (partial(torch.optim.Adam, lr=0.1, betas=(2.0, 0.9)), "--optimizer: Invalid beta param"),
        (partial(torch.optim.SGD, bogus=1), "--optimizer: .*bogus"),
        (partial(torch.optim.LBFGS, lr=0.1), "--optimizer: LBFGS doesn't support per-parameter"),
        (partial(torch.optim.SparseAdam, lr=0.1), "cannot take plain steps: .*does not support de"),
    ],
)  # fmt: skip
def test_what_torch_refuses_is_refused_in_its_words(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LocalOptimizer(make, flat_task(4, 2))


class OfNeighbours(torch.optim.SGD):
    """Takes part of the gradient of the row below."""

    share = 1e-3

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad + self.share * p.grad.roll(1, 0) * (len(p) > 1)
        super().step(closure)


class Later(OfNeighbours):
    """Does so from its second step on."""

    def step(self, closure: Any = None) -> None:
        self.share = 1e-3 if self.state else 0.0
        super().step(closure)
        self.state["taken"] = {}  # type: ignore[index]


@pytest.mark.parametrize("kind", [OfNeighbours, Later])
def test_an_optimiser_whose_rows_know_of_each_other_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="steps a parameter matrix as a whole"):
        check_by_rows(partial(kind, lr=0.1))


@pytest.mark.parametrize("at", [0, 1])
def test_a_refusal_in_a_step_is_one_whoever_steps(at: int) -> None:
    """An optimiser that takes only one of the rows alone, or only both."""

    class Fastidious(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            if len(self.param_groups[0]["params"][0]) == at + 1:
                raise RuntimeError("not this shape")
            super().step(closure)

    with pytest.raises(ConfigurationError, match="cannot take plain steps: not this shape"):
        check_by_rows(partial(Fastidious, lr=0.1))


FUSABLE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        *((kind, True) for kind in FUSABLE),
        (torch.optim.RMSprop, None),
        (type("Own", (torch.optim.SGD,), {}), None),
        *((partial(torch.optim.SGD, **{name: True}), None) for name in ("foreach", "maximize")),
        (partial(torch.optim.Adam, differentiable=True), None),
        (partial(torch.optim.SGD, fused=False), False),
        (partial(torch.optim.SGD, foreach=False), True),
    ],
)
def test_torch_steps_in_one_pass_where_nobody_asked_otherwise(make: Any, fused: Any) -> None:
    if getattr(make, "keywords", {}).get("maximize"):
        fused = True  # not about how it is computed
    optimizer = make([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(3)]}], lr=0.1)
    fuse(optimizer)
    assert [group.get("fused") for group in optimizer.param_groups] == [fused] * 2


def test_one_row_is_fused_and_several_are_not() -> None:
    """The fused kernels round differently at the ends of a row."""
    for R, fused in ((1, True), (2, None)):
        made = LocalOptimizer(sgd(), flat_task(4, 2, R))
        assert [group["fused"] for group in made.torch.param_groups] == [fused] * 2


def test_workers_that_start_anew_have_no_momentum_and_the_others_keep_theirs() -> None:
    run = small_run(K=3, spec=digits(hidden=4), optimizer=adam())
    g = torch.ones_like(run.task.x)
    run.optimizer.step(g, 0.1)
    run.optimizer.forget(np.array([False, True, False]))
    found = run.optimizer.row_state()
    assert len(found) == 4  # two moments of the part with decay and of the part without
    for tensor in found:
        assert (tensor[1] == 0).all() and (tensor[[0, 2]] != 0).all()


def test_an_optimiser_is_described_without_its_rate_and_what_is_off() -> None:
    made = torch.optim.Adam([torch.zeros(1)], lr=0.5, amsgrad=True)
    assert described(made) == "Adam(betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=True)"
