"""What tests of commands ask for: runs of which all but the steps is done, and no Slurm about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import hpc_localsgd.loop
from hpc_localsgd.commands.configuration.run_parser import KeptParser
from hpc_localsgd.commands.plan import command as plan
from hpc_localsgd.engine import discovery
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.stopping import Stopped


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """Runs of a few steps are done; of long or large ones, all but the steps; none is compiled."""
    train = hpc_localsgd.loop.train

    def begin(run: Any, position: Any, record: Any, keep: Any) -> Any:
        if run.steps > 4 or run.world.K > 8 or run.task.dim > 100_000:
            raise Stopped("far enough")
        return train(run, position, record, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpc_localsgd.loop, "train", begin)
        patch.setattr(torch, "compile", lambda module: module)  # see tests/tasks/test_execution.py
        patch.setattr(plan, "parser", KeptParser(plan.parser()).as_made)  # made once
        patch.setattr(discovery, "WORLDS", dict.fromkeys(discovery.WORLDS, no_launcher))
        yield


def no_launcher(*_: Any) -> Any:
    """In the place of worlds that other processes take part in."""
    raise ConfigurationError("nobody started several processes")


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job of Slurm has a limit that a plan would look at."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and an empty one is written for each: what counts is which files are."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    write = Figure.savefig

    def blank(_: Figure, file: Any, bbox_inches: object = None, **options: Any) -> None:
        write(Figure((0.1, 0.1)), file, **options)

    monkeypatch.setattr(Figure, "savefig", blank)
    monkeypatch.setattr(Figure, "get_tightbbox", lambda *_: Bbox.unit())
