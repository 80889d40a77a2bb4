"""What happens to momentum and moments at an exchange: kept, averaged, forgotten, and billed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import adam, go, sgd, small_run

from hpc_localsgd.engine.optimizer import MakeOptimizer
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import Now


def momentum_after(at_sync: str, **options: Any) -> list[torch.Tensor]:
    run = small_run(H=4, steps=4, at_sync=at_sync, optimizer=sgd(momentum=0.9), **options)
    go(run)
    return [state["momentum_buffer"].clone() for state in run.optimizer.torch.state.values()]


def test_momentum_at_a_sync_is_kept_averaged_or_forgotten() -> None:
    kept, averaged = momentum_after("keep"), momentum_after("average")
    assert len(kept) == len(averaged) == 2  # with and without weight decay
    for own, mean in zip(kept, averaged, strict=True):
        assert (own - own.mean(0)).abs().max() > 1e-3
        torch.testing.assert_close(mean, own.mean(0).expand_as(own), rtol=0, atol=1e-15)
    assert momentum_after("reset") == []


def test_averaged_momentum_is_sent_and_billed() -> None:
    def payload(at_sync: str, make: MakeOptimizer) -> float:
        run = small_run(H=4, steps=4, at_sync=at_sync, optimizer=make)
        return float(go(run)[1].rounds[0]["payload_bytes"][0]) / (8 * run.task.dim)

    assert payload("keep", sgd(momentum=0.9)) == 1
    assert payload("average", sgd(momentum=0.9)) == 2
    assert payload("average", adam()) == 3
    assert payload("average", sgd()) == 1


def test_moments_are_sent_in_the_rounds_that_are_theirs() -> None:
    """DES-LOC: the first moment every second round, the second every third."""
    every = {"exp_avg": 2, "exp_avg_sq": 3}
    options: dict[str, Any] = {"at_sync": "average", "optimizer": adam(), "moments_every": every}
    run = small_run(H=2, steps=12, **options)
    sent = [row["payload_bytes"][0] / (8 * run.task.dim) for row in go(run)[1].rounds]
    assert sent == [1, 2, 2, 2, 1, 3]
    now = [Now(t=0, s=s, H=2, h=1, lr=0.1, lr_round=0.1) for s in range(6)]
    assert [run.optimizer.averages(each) for each in now] == [0, 1, 1, 1, 0, 2]
    assert run.optimizer.averages(replace(now[5], H=1)) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"moments_every": {"exp_avg": 2}}, "needs --momentum-at-sync average"),
        ({"at_sync": "average", "moments_every": {"exp_avg": 0}}, "every 0 rounds: type 1 or more"),
        ({"at_sync": "average", "moments_every": {"m": 2}}, "no moment 'm', but exp_avg, exp_avg_"),
    ],
)
def test_moments_that_are_not_there_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        small_run(optimizer=adam(), **options)
    if "m" in options["moments_every"]:
        with pytest.raises(ConfigurationError, match="has no moment 'm', but none at all"):
            small_run(optimizer=sgd(), **options)


def test_momentum_is_left_alone_in_the_parallel_phase() -> None:
    options: dict[str, Any] = {"H": 1, "steps": 6, "optimizer": sgd(momentum=0.9)}
    kept, *others = (
        go(small_run(at_sync=at_sync, **options))[0].x for at_sync in ("keep", "reset", "average")
    )
    assert all(torch.equal(x, kept) for x in others)


def test_a_reset_is_a_new_start_of_the_optimiser() -> None:
    run = small_run(H=4, steps=8, at_sync="reset", optimizer=adam(), lr=0.01)
    steps = []
    step = run.optimizer.torch.step
    run.optimizer.torch.step = lambda: (  # type: ignore[method-assign]
        step(),
        steps.append({int(s["step"]) for s in run.optimizer.torch.state.values()}),
    )
    go(run)
    assert steps == [{1}, {2}, {3}, {4}] * 2
