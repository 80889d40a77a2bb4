"""Weights & Biases, offline unless WANDB_MODE says more: `wandb sync RUN/wandb/offline-*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb
import yaml


class WeightsAndBiases:
    """A run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        """Log to this run."""
        self._run = run

    def log(self, t: int, values: dict[str, float]) -> None:
        """Log numbers beside their step: rounds are written after evaluations within them."""
        self._run.log({"step": t, **values})

    def close(self, status: str) -> None:
        """Log how the run ended."""
        self._run.summary["status"] = status
        self._run.finish()


def begin(out: Path, config: str) -> WeightsAndBiases:
    """Begin a run in the folder of ours."""
    mode: Any = os.environ.get("WANDB_MODE", "offline")  # wandb says what else there is
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "hpc_localsgd"),
        name=out.name,
        dir=str(out),
        config=yaml.safe_load(config),
        mode=mode,
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("*", step_metric="step")
    return WeightsAndBiases(run)
