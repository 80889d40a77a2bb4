"""The recipes of the papers: their notes, what they ask for, and that a plan needs no data."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.configuration.run_parser import KeptParser
from hpc_localsgd.commands.plan import command
from hpc_localsgd.commands.smoke import STEPS, shortened, smaller
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.types import Now

RECIPES = sorted((Path(__file__).parent.parent / "benchmarks" / "configs").glob("*.yaml"))
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
GRAPHS = ("ring", "grid", "exponential")
MARKS = {"[code]", "[abstract]", "[logs]", "[memory]", "[ours]"}


def recipe(name: str) -> Path:
    return next(path for path in RECIPES if path.stem == name)


@cache
def parser() -> KeptParser:
    return KeptParser(command.parser())


@cache
def resolved(path: Path) -> config.Resolved:
    return config.resolve(parser().as_made(), ["--config", str(path), "--json"])


def parsed(path: Path) -> config.Config:
    return resolved(path).config


@cache  # of a large net it takes seconds
def plan(path: Path) -> Any:
    with patch.object(config, "resolve", lambda *_: resolved(path)):
        return json.loads(command.plan(["--config", str(path), "--json"], detect({})))


@every_recipe
def test_a_recipe_begins_with_its_note(path: Path) -> None:
    lines = path.read_text().splitlines()
    note = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    for heading in ("Source", "Numbers", "Data", "Command", "Hours", "Expected"):
        assert re.search(rf"^# {heading} +\S", note, re.MULTILINE), f"{heading} is missing"
    assert set(re.findall(r"\[[a-z]+\]", note)) <= MARKS
    assert "arXiv:" in note
    assert f"--config benchmarks/configs/{path.name}" in note


@every_recipe
def test_a_recipe_is_understood_and_has_a_folder_of_its_own(path: Path) -> None:
    config = parsed(path)
    assert config.workers is not None
    assert config.out == f"runs/{path.stem}"


@every_recipe
def test_a_trial_keeps_the_model_and_needs_no_files(path: Path) -> None:
    config = parsed(path)
    small = smaller(config, ranks=2)
    assert (small.workers or 0) % 2 == 0
    assert (small.workers or 0) <= 4
    assert getattr(small.task, "model", None) == getattr(config.task, "model", None)
    assert type(small.algorithm) is type(config.algorithm)
    assert type(small.schedule) is type(config.schedule)
    assert not hasattr(small.task, "data")
    assert (small.out, small.overwrite) == (f"{config.out}-smoke", True)


def test_the_durations_of_a_trial_shrink_alike() -> None:
    units = shortened(Units(steps_per_epoch=12.0, samples_per_step=4096, total=6000))
    assert units.total == STEPS
    assert units.steps("500 epochs") == STEPS
    assert units.steps("200 epochs") == round(0.4 * (STEPS - 0.5)) == 1
    assert units.steps("334 epochs") == STEPS - 2  # a round of local steps in the last third
    assert units.steps("24.576e6 samples") == STEPS


def test_the_numbers_of_gu_et_al() -> None:
    found = plan(recipe("cifar10_postlocal"))
    assert found["run"]["steps"] == 500 * 12
    assert found["run"]["parameters"] == pytest.approx(0.85e6, rel=0.02)
    lengths = [(s["every"], s["rounds"]) for s in found["rounds"]["stretches"]]
    assert lengths == [(1, 3000), (600, 5)]
    first, last = found["rounds"]["stretches"][0], found["rounds"]["stretches"][-1]
    assert (first["lr_high"], last["lr_last"]) == (3.2, pytest.approx(0.32))


def test_the_numbers_of_qsr_on_vit() -> None:
    found = plan(recipe("qsr_imagenet_vit_b"))
    assert (found["run"]["steps"], found["run"]["steps_per_epoch"]) == (93_600, 312)
    assert found["run"]["parameters"] == 86_567_656
    assert found["rounds"]["count"] == 9_711
    assert found["memory_bytes_per_worker"]["optimiser"] == pytest.approx(2 * 4 * 86_567_656)


def test_all_workers_meet_at_every_step_before_local_steps_begin() -> None:
    algorithm: Any = parsed(recipe("lin_cifar10_hierarchical")).algorithm
    phase = [Now(t=s, s=s, H=1, h=0, lr=3.2, lr_round=3.2, parallel=True) for s in range(8)]
    assert {algorithm.level(now) for now in phase} == {1}


def test_signs_are_sent_in_both_phases() -> None:
    share = plan(recipe("lin_cifar10_ef_sign"))["traffic"]["share_of_parallel_sgd"]
    assert share == pytest.approx((1 + 1 / 64) / 2 / 32, rel=0.05)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((f"zhu_dsgd_{g}", "Differs: theirs keeps a disjoint part") for g in GRAPHS),
        *((f"zhu_dsgd_{g}", "Differs: their warm-up is rate x max(0.1, t / 60)") for g in GRAPHS),
        ("qsr_imagenet_resnet50", "[ours] as for ResNet-152"),
    ],
)
def test_a_recipe_says_where_it_is_not_the_papers(name: str, said: str) -> None:
    assert said in recipe(name).read_text()


def test_what_was_read_in_code_for_another_net_is_not_marked_so() -> None:
    assert "[code]" not in recipe("qsr_imagenet_resnet50").read_text()


@every_recipe
def test_memory_and_disk_of_a_recipe_are_planned_without_its_data(path: Path) -> None:
    found = plan(path)
    memory, disk = found["memory_bytes_per_worker"], found["disk_bytes"]
    parameters = 4 * found["run"]["parameters"]
    assert memory["parameters"] == memory["gradients"] == pytest.approx(parameters)
    kept = memory["parameters"] + memory["optimiser"] + memory["algorithm"]
    assert disk["checkpoints_bytes"] >= 0.99 * found["run"]["workers"] * kept
    assert found["run"]["samples"] in (50_000, 1_281_167, 507)
