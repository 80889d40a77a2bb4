"""Averages and codecs of many workers on one device, beside what its memory can copy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from on_gpu.section import Bench, Section, table

from hpc_localsgd.commands.configuration.names import choices
from hpc_localsgd.compressors import Compressor
from hpc_localsgd.topology import ring
from hpc_localsgd.worlds.simulated import Simulated

K = 8
Call = Callable[[], Any]


def section(bench: Bench) -> Section:
    """Measure what every exchange reads and writes in a second, and what a copy does."""
    P = 2**12 if bench.quick else 2**24
    torch.manual_seed(0)
    x = torch.randn(K, P, device=bench.device)
    other, world = torch.empty_like(x), Simulated(K, bench.device)
    W: Any = np.asarray(ring().matrix(K, 0))
    calls: dict[str, tuple[Call, int]] = {
        # Name -> call, and how often each number is read or written at least.
        "copy": (lambda: other.copy_(x), 2),
        "mean of 8 workers": (lambda: world.mean(x), 2),
        "mix on a ring of 8": (lambda: world.mix(x, W), 2),
    }
    for name, codec in codecs().items():
        calls |= _both_ways(name, codec, x)
    rows, data = [], {}
    for name, (call, passes) in calls.items():
        rate = passes * x.nbytes / bench.median(call)
        data[name] = rate
        rows.append([name, f"{rate / 1e9:,.1f}", f"{100 * rate / data['copy']:.0f} %"])
    note = (
        f"{K} workers of {P:,} numbers in float32. Bytes are those that must be read and written "
        "at least: both for a mean, the vector's own for a codec."
    )
    return Section(f"{note}\n\n{table(['', 'GB/s', 'of a copy'], rows)}", data)


def codecs() -> dict[str, Compressor]:
    """Return every codec of rows by its short name, as it is by default."""
    found = {}
    for name, path in choices("compressor").items():
        module, _, made = path.rpartition(".")
        found[name] = getattr(import_module(module), made)()
    return {name: made for name, made in found.items() if isinstance(made, Compressor)}


def _both_ways(name: str, codec: Compressor, x: torch.Tensor) -> dict[str, tuple[Call, int]]:
    """Return the calls of a codec; what is compared is the vector, read or written once."""
    sizes = [x.shape[1]]
    sent = codec.encode(x, sizes)
    return {
        f"encode {name}": (lambda: codec.encode(x, sizes), 1),
        f"decode {name}": (lambda: codec.decode(sent, sizes, x.dtype), 1),
    }
