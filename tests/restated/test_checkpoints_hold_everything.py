"""A run that continues from its shard is the uninterrupted one bit for bit, from every step on.

The task holds all that a place must: buffers, a state of its own, and the process's random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.tasks.base import Batch
from restated.by_the_loop import Noting, Restated, run_of
from restated.local import AdamW, Sgd
from restated.problem import Case, Problem
from restated.test_restated import restated_of


class Remembering(Restated):
    """Its gradients depend on buffers, on how often they were taken, and on torch's numbers."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.buffers = torch.zeros(problem.K, 2, dtype=torch.float64)
        self.taken = torch.zeros(())

    def loss_and_grad(self, x: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss, g = super().loss_and_grad(x, batch)
        self.taken += 1
        self.buffers += 0.1 * x[:, :2]
        g += 0.1 * torch.randn_like(g) + 0.02 * self.taken
        g[:, :2] += 0.1 * self.buffers
        return loss, g

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.taken.copy_(state["taken"])


class Keeping(Noting):
    """Writes a shard after every step, of the last exchange before it."""

    def __init__(self, run: Run, checkpoints: Checkpoints | None) -> None:
        super().__init__(run.task)
        self.run, self.checkpoints = run, checkpoints

    def keep(self, p: Position) -> None:
        if self.checkpoints:
            # One exchange a step, so that no shard replaces another.
            self.checkpoints.save(RankCheckpoint.of(self.run, p, p.t, {"said": p.t}))


def begun(case: Case) -> tuple[Run, Position]:
    run = run_of(case, case.problem(), Remembering)
    return run, run.beginning()


CASES = [
    pytest.param(module.CASES[i], id=f"{name}-{module.CASES[i].name}")
    for name, module in restated_of("algorithms").items()
    for i in (0, -1)
    if hasattr(module, "CASES")
]


@pytest.mark.parametrize("local", [Sgd, AdamW], ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES)
def test_from_every_step_on_a_resumed_run_is_the_same(
    case: Case, local: Any, tmp_path: Path
) -> None:
    case = Case(case.name, case.made, case.path, case.given | {"local": local}, case.ours)
    run, p = begun(case)
    checkpoints = Checkpoints(tmp_path, run.world, keep=1000, digest="of this run")
    torch.manual_seed(5)
    keeping = Keeping(run, checkpoints)
    train(run, p, keeping, keeping.keep)  # type: ignore[arg-type]
    for t in range(run.steps - 1, 0, -3):
        again, p = begun(case)
        torch.manual_seed(77)
        for folder in checkpoints.folder.iterdir():
            if int(folder.name.removeprefix("step-")) > t:
                folder.rename(tmp_path / folder.name)
        place = Checkpoints(tmp_path, again.world, digest="of this run").load()
        assert (place.t, place.after, place.state["record"]) == (t, t, {"said": t})
        p = place.restore(again, p)
        p.state = again.algorithm.resume(p.state, again.world)
        resumed = Keeping(again, None)
        train(again, p, resumed, resumed.keep)  # type: ignore[arg-type]
        np.testing.assert_array_equal(resumed.noted, keeping.noted[2 * t :])
        np.testing.assert_array_equal(again.task.buffers, run.task.buffers)
