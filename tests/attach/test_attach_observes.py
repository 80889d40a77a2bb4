"""A schedule that observes the workers steers a loop of one's own as it steers ours."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rank_threads import ThreadWorld, on_ranks
from small_runs import go, quadratic, small_run
from torch import nn

import hpc_localsgd
from hpc_localsgd import Gossip, LocalSGD, every
from hpc_localsgd.attach import Sync
from hpc_localsgd.attach.rounds import AttachedPosition
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import spread_triggered

STEPS, K = 40, 4
SPEC = quadratic(h=(1.0, 2.0, 0.5, 1.5), c=(1.0, -1.0, 0.5, 3.0), noise=0.1, dim=5)
SCHEDULE = spread_triggered(target=3.0, at_most=9)


class Halves(nn.Module):
    """The quadratic's parameters in two dtypes, which are exchanged apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((2,), 1.0, dtype=torch.float64))
        self.b = nn.Parameter(torch.full((3,), 1.0, dtype=torch.float32))


def attached(algorithm: Any, world: ThreadWorld) -> tuple[Halves, torch.optim.Optimizer, Sync]:
    model = Halves()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given: dict[str, Any] = {"algorithm": algorithm, "schedule": SCHEDULE, "steps": STEPS}
    return model, optimizer, hpc_localsgd.attach(model, optimizer, world=world, **given)


def ends(algorithm: Any, stop: int | None = None) -> list[int]:
    """Steps after which rounds end; everything is saved and made again after `stop` of them."""
    own = small_run(spec=SPEC, K=K)

    def work(world: ThreadWorld) -> list[int]:
        model, optimizer, sync = attached(algorithm, world)
        found = []
        for t in range(STEPS):
            if t == stop:
                parts: list[Any] = [model, optimizer, sync]
                file = io.BytesIO()
                torch.save([part.state_dict() for part in parts], file)
                sync.detach()
                model, optimizer, sync = attached(algorithm, world)
                file.seek(0)
                for part, state in zip((model, optimizer, sync), torch.load(file), strict=True):
                    part.load_state_dict(state)
            noise = own.task.batch(range(K), t)[0][world.rank]
            optimizer.zero_grad()
            w = torch.cat([model.a, model.b.double()])
            h, c = SPEC.h[world.rank], SPEC.c[world.rank]
            (0.5 * h * (w - c) ** 2 + noise * w).sum().backward()
            optimizer.step()
            found += [t + 1] if sync.step() else []
        return found

    of_ranks = on_ranks(K, work)
    assert all(found == of_ranks[0] for found in of_ranks)
    return of_ranks[0]


@pytest.mark.parametrize("algorithm", [LocalSGD(), Gossip()], ids=repr)
def test_rounds_are_those_of_the_trainer_and_go_on_after_a_checkpoint(algorithm: Any) -> None:
    _, memory = go(small_run(spec=SPEC, K=K, H=SCHEDULE, steps=STEPS, algorithm=algorithm))
    expected = [row["step_end"] for row in memory.rounds]
    lengths = {b - a for a, b in zip([0, *expected], expected, strict=False)}
    assert len(lengths) > 2
    assert ends(algorithm) == expected
    inside = next(t for t in range(12, STEPS) if t not in expected)
    assert ends(algorithm, stop=inside) == expected


def test_a_state_of_another_schedule_is_refused() -> None:
    def work(world: ThreadWorld) -> None:
        _, _, sync = attached(LocalSGD(), world)
        model = Halves()
        other = hpc_localsgd.attach(
            model, torch.optim.SGD(model.parameters(), lr=0.1), schedule=every(3), world=world
        )
        with pytest.raises(ConfigurationError, match="was given"):
            sync.load_state_dict(other.state_dict())

    on_ranks(2, work)


def test_a_place_of_version_0_1_0_says_whether_rounds_were_parallel() -> None:
    old = {"rate": 0.1, "used": True, "equal": True, "over": False}
    assert AttachedPosition.saved({"t": 4, "s": 3, "begin": 3, "end": 4, **old}).parallel
    assert not AttachedPosition.saved({"t": 4, "s": 2, "begin": 2, "end": 4, **old}).parallel
    assert not AttachedPosition.saved(
        {"t": 4, "s": 3, "begin": 3, "end": 4, "parallel": False}
    ).parallel
