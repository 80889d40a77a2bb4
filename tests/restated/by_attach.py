"""The same problem trained in a user's own loop, with `attach`; ranks are threads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hpc_localsgd
from restated.local import Sgd
from restated.problem import SHAPES, SIZES, Problem

sys.path.append(str(Path(__file__).parents[1] / "attach"))  # the ranks of its tests

from rank_threads import ThreadWorld, on_ranks  # noqa: E402


class Model(nn.Module):
    """The problem's tensors, in one or several dtypes, one copy of all for each."""

    def __init__(self, x: np.ndarray, dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        parts = torch.from_numpy(x).split(SIZES)
        self.copies = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(part.view(shape).to(dtype))
                for part, shape in zip(parts, SHAPES, strict=True)
            )
            for dtype in dtypes
        )
        self.lists = [list(copy) for copy in self.copies]  # a ParameterList looks up each by name

    def flat(self) -> list[torch.Tensor]:
        """The parameters [P] of every copy, with their graph."""
        return [torch.cat([p.reshape(-1) for p in copy]) for copy in self.lists]

    @torch.no_grad()
    def rows(self) -> list[np.ndarray]:
        """The parameters [P] of every copy."""
        return [x.double().numpy() for x in self.flat()]

    def step(
        self, optimizer: Any, problem: Problem, rows: list[np.ndarray], k: int, t: int
    ) -> None:
        """What a user does in a step: backward of a loss with the gradient of worker k at rows."""
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for x, at in zip(self.flat(), rows, strict=True):
            loss = loss + x @ torch.from_numpy(problem.gradient(k, at, t)).to(x.dtype)
        loss.backward()
        optimizer.step()


def optimizer_of(model: Model, problem: Problem) -> torch.optim.Optimizer:
    """Two groups of parameters: the first two tensors of every copy take weight decay."""
    given = dict(problem.local.GIVEN)  # type: ignore[attr-defined]
    with_decay = [p for copy in model.copies for p in list(copy)[:2]]
    without = [p for copy in model.copies for p in list(copy)[2:]]
    groups = [{"params": with_decay}, {"params": without, "weight_decay": 0.0}]
    made = torch.optim.SGD if problem.local is Sgd else torch.optim.AdamW
    return made(groups, lr=0.0, **given)


def attached(
    problem: Problem,
    algorithm: Any,
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    told: bool = True,
) -> list[np.ndarray]:
    """Parameters [2 steps, K, P] of every copy: after each optimizer.step() and sync.step().

    Args:
        problem: What is trained.
        algorithm: By what.
        dtypes: Of the copies of the parameters.
        told: Whether attach is given the number of steps; otherwise `finish` ends the run.
    """
    lengths = {begin: end - begin for _, begin, end in problem.rounds()}
    if not told:  # the last round would have been longer
        lengths[max(lengths)] += 5

    def work(world: ThreadWorld) -> list[list[np.ndarray]]:
        model = Model(problem.start[0], dtypes)
        optimizer = optimizer_of(model, problem)
        sync = hpc_localsgd.attach(
            model,
            optimizer,
            algorithm=algorithm,
            schedule=lambda t, lr: lengths[t],
            world=world,
            steps=problem.steps if told else None,
            bucket_bytes=40,
        )
        noted = [model.rows()]
        for t in range(problem.steps):
            for group in optimizer.param_groups:
                group["lr"] = problem.rate(t)
            model.step(optimizer, problem, noted[-1], world.rank, t)
            noted.append(model.rows())
            sync.step()
            noted.append(model.rows())
        if not told:
            sync.finish()
            noted[-1] = model.rows()
        return noted[1:]

    of_ranks = on_ranks(problem.K, work)  # [K][2 steps][copies] of [P]
    return [
        np.stack([[step[copy] for step in noted] for noted in of_ranks], axis=1)
        for copy in range(len(dtypes))
    ]
