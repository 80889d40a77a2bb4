"""Label noise that begins at a step: a phase before it, and the same in every part of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.train import main as train
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Run
from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

SMALL = ["--task.hidden=4", "--batch-per-worker=8", "--steps=20", "--seed=1"]
NOISE = "--task.label-noise=0.5"


def made(*more: str) -> Run:
    return make_run(parse([*SMALL, *more]), Simulated(4))[0]


def labels(run: Run, t: int) -> torch.Tensor:
    return run.task.batch(range(4), t)[1]


@pytest.mark.parametrize("gradient", ["plain", "sam"])
def test_labels_are_as_stored_before_it_and_as_always_from_it_on(gradient: str) -> None:
    with_it = ["--label-noise-from=50%", f"--gradient={gradient}"]
    clean, noisy, late = made(), made(NOISE), made(NOISE, *with_it)
    for t in (0, 9):
        assert torch.equal(labels(late, t), labels(clean, t))
    for t in (10, 19):
        assert torch.equal(labels(late, t), labels(noisy, t))
        assert not torch.equal(labels(late, t), labels(clean, t))


def test_what_is_measured_as_trained_on_is_of_the_phase() -> None:
    run = made(NOISE, "--label-noise-from=10")

    def seen(t: int, undisturbed: bool) -> Any:
        view = ExchangeView(run, t, 0.1, run.task.x, run.task.x[0])
        return torch.stack([batch[1] for batch in view.share(0, 64, undisturbed)])

    before, after = seen(9, False), seen(10, False)
    assert torch.equal(before, seen(9, True)) and torch.equal(before, seen(0, False))
    stored = torch.stack([run.task.undisturbed(0, t)[1] for t in (10, 11)])
    assert not torch.equal(after, stored) and torch.equal(after, seen(19, False))
    assert torch.equal(seen(9, True), seen(19, True))  # the fixed subset stays what it is


def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    words = [*SMALL, NOISE, "--label-noise-from=6", "--workers=2", "--figures=false"]
    words += ["--rate=constant", "--schedule=every", "--schedule.steps=4", "--snapshot-every=100%"]
    short, whole = ([*words, f"--out={tmp_path / name}"] for name in ("short", "whole"))
    assert train([*whole]) == 0
    assert train([*short, "--steps=8"]) == 0
    assert train([*short, "--resume"]) == 0
    ends = [Trajectory(tmp_path / name).snapshot().mean for name in ("short", "whole")]
    assert (ends[0] == ends[1]).all()
    other = [word for word in words if not word.startswith("--label")]
    assert train([*other, f"--out={tmp_path / 'other'}"]) == 0
    assert (Trajectory(tmp_path / "other").snapshot().mean != ends[1]).any()


@pytest.mark.parametrize("more", [[], ["--task=quadratic"], ["--gradient=sam"]])
def test_without_noise_there_is_nothing_to_begin(more: list[str]) -> None:
    drop = SMALL[1:] if more == ["--task=quadratic"] else SMALL
    with pytest.raises(ConfigurationError, match="this task has no --task.label-noise"):
        make_run(parse([*drop, "--label-noise-from=10", *more]), Simulated(4))
