"""One measurement at an exchange of a small run, and the samples it was made from."""

from __future__ import annotations

from typing import Any

import torch
from small_runs import small_run

from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.tasks.digits import digits

LR = 0.3


def measured(probe: Any, apart: float = 0.02, K: int = 4) -> tuple[dict[str, Any], ExchangeView]:
    """One measurement of K workers near a point, and what it was made from."""
    run = small_run(spec=digits(hidden=3), K=K, H=4, steps=20)
    stream = torch.Generator().manual_seed(3)
    d = torch.randn(K, run.task.dim, generator=stream, dtype=torch.float64)
    before = run.task.init(0) + apart * (d - d.mean(0))
    exchange = ExchangeView(run, 8, LR, before, None)
    return {m.name: m.value for m in probe.measure(exchange)}, exchange


def whole_subset(exchange: ExchangeView, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [b for k in range(exchange.run.world.K) for b in exchange.share(k, samples)]
    return torch.cat([i for i, _ in parts]), torch.cat([t for _, t in parts])
