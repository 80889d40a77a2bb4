"""Several ranks, one a card, over NCCL: every algorithm checked by `verify`."""

from __future__ import annotations

import subprocess
import sys

import torch
from on_gpu.section import Bench, Section

PATIENCE_S = 240.0


def section(bench: Bench) -> Section:
    """Start torchrun with a rank a card, where there are several."""
    cards = torch.cuda.device_count() if bench.on_gpu else 0
    if cards < 2:
        return Section(f"Not run: needs two cards at least, there are {cards}.", {"cards": cards})
    n = min(cards, 8)
    started = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={n}", "-m", "hpc_localsgd", "verify", "--world", "torch"),
    ]
    try:
        done = subprocess.run(started, capture_output=True, text=True, timeout=PATIENCE_S)
        code, said = done.returncode, f"{done.stdout}\n{done.stderr}".strip()
    except subprocess.TimeoutExpired:
        code, said = None, f"no end within {PATIENCE_S:.0f} s"
    wrong = [] if code == 0 else [f"verify under torchrun ended with status {code}"]
    last = "\n".join(said.splitlines()[-12:])
    return Section(f"{n} ranks under torchrun, status {code}:\n\n```\n{last}\n```", {}, wrong)
