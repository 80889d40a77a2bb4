"""Hierarchical averages by host go on in the blocks that they began with, on whatever hosts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.train import main
from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.base import World

RUN = ["--workers=4", "--algorithm=hierarchical", "--algorithm.rounds=[3]", "--schedule=every"]
RUN += ["--schedule.steps=4", "--steps=40", "--checkpoint-every=4", "--checkpoint-keep=9"]
RUN += ["--task.hidden=8", "--evaluate-every=0", "--spread-every=0", "--figures=false"]


@contextmanager
def on_hosts_of(workers: int) -> Iterator[None]:
    """Let hosts have so many workers each; 0 for unequal numbers."""

    def per_host(world: World) -> int:
        if not workers:
            raise ConfigurationError("hosts have [1, 3] workers in a row: start the same number")
        return workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "workers_per_host", per_host)
        yield


def rows(out: Path) -> torch.Tensor:
    found = last_complete(out)
    assert found is not None
    x: torch.Tensor = shard.read(found[0] / "rank-0-of-1.pt")["x"]
    return x


@pytest.mark.parametrize("quarantine", [[], ["--on-nan=quarantine"]], ids=["", "quarantine"])
@pytest.mark.parametrize("workers", [4, 0], ids=["one host", "unequal hosts"])
def test_it_is_the_run_on_the_hosts_where_it_began(
    workers: int, quarantine: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [*RUN, *quarantine, f"--out={tmp_path}"]
    with on_hosts_of(2):
        assert main(options) == 0
    whole = rows(tmp_path)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > 16:
            shutil.rmtree(folder)
    with on_hosts_of(workers):
        assert main([*options, "--resume"]) == 0, capfd.readouterr().err
    assert torch.equal(rows(tmp_path), whole)
