"""What benchmarks write: seconds of exchanges in trains, seconds to a target, the command."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from benchmarks import collectives, medians, reporting, time_to_target

ROOT = reporting.ROOT


@pytest.mark.parametrize(("train_bytes", "together"), [(0, 1), (40_000, 10)])
def test_an_exchange_of_a_train_takes_its_share(
    train_bytes: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, exchanged, begun = [0.0], [0], [0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def exchange(x: torch.Tensor) -> None:
        exchanged[0] += 1
        now[0] += 2.0

    def gather(v: np.ndarray) -> np.ndarray:
        begun[0] += not v.any()
        return v

    world: Any = SimpleNamespace(K=2, device=torch.device("cpu"), gather=gather)
    how = collectives.Repeated(at_most_s=100.0, pick=min, train_bytes=train_bytes)
    cell = collectives._cell(world, "gather", exchange, 4_000, how)
    assert cell.seconds == 2.0 and exchanged[0] == together * begun[0]
    assert begun[0] == collectives.WARM_UP + min(collectives.MOST, int(100 / (2 * together)) + 1)


@pytest.mark.parametrize("n", [5, 6, 8, 11, 20, 60])
def test_the_interval_of_a_median_has_the_confidence_that_is_said(n: int) -> None:
    low, high = medians.within(range(n))
    sure = [1 - 2 * binom.cdf(low + more, n, 0.5) for more in (0, 1)]
    assert high == n - 1 - low and sure[1] < 0.95
    assert sure[0] >= (0.95 if n > 5 else 0.9375)  # of five not even the least and the largest
    assert medians.sureness(n) == ("95 %" if n > 5 else "94 %")


def test_ratios_to_ours_are_of_equal_seeds_and_a_target_may_be_missed() -> None:
    def run(seed: int, *looks: tuple[int, float, float]) -> dict[str, Any]:
        return {"seed": seed, "looks": looks, "memory_mb": 100.0}

    found = {
        "DDP": [run(0, (10, 30.0, 0.8), (20, 60.0, 0.9)), run(1, (10, 80.0, 0.8))],
        time_to_target.OURS: [run(1, (10, 20.0, 0.85)), run(0, (10, 10.0, 0.81))],
    }
    low, high = time_to_target.rows(found, [0.8, 0.9]).split("## ")[1:]
    assert "| DDP | 2 of 2 | 55.0 | 30.0 - 80.0 | 3.0 4.0 | 10 | 5500 | 100 |" in low
    assert "| DDP | 1 of 2 | 60.0 | 60.0 - 60.0 |  | 20 | 3000 | 100 |" in high
    assert f"| {time_to_target.OURS} | 0 of 2 | not reached |" in high


@pytest.mark.parametrize(
    ("spec", "script", "command"),
    [
        (None, ROOT / "benchmarks" / "sizes.py", "python benchmarks/sizes.py --rounds 5"),
        ("__main__", ROOT / "benchmarks" / "reproduce", "python benchmarks/reproduce --rounds 5"),
        ("benchmarks.exposed", "/x/exposed.py", "python -m benchmarks.exposed --rounds 5"),
        ("benchmarks.netlab.__main__", "/x/y.py", "python -m benchmarks.netlab --rounds 5"),
        (None, "/elsewhere/mine.py", "python /elsewhere/mine.py --rounds 5"),
    ],
)
def test_a_report_has_the_command_that_was_typed(
    spec: str | None, script: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = SimpleNamespace(__spec__=None if spec is None else SimpleNamespace(name=spec))
    monkeypatch.setitem(sys.modules, "__main__", begun)
    monkeypatch.setattr(sys, "argv", [str(script), "--rounds", "5"])
    assert reporting.circumstances()["command"] == command
