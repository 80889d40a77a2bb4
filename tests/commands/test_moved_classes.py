"""A class that has moved is found by the path it had: on the command line, in files and records."""

from __future__ import annotations

from importlib import import_module

import pytest

from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.configuration.names import CHOICES, choices
from hpc_localsgd.topology import ring
from hpc_localsgd.trajectory.moved_classes import MOVED, where_now, where_then


@pytest.mark.parametrize("option", CHOICES)
def test_every_class_is_found_from_its_path_of_0_1_0(option: str) -> None:
    for path in choices(option).values():
        assert where_now(where_then(path)) == where_now(path) == path


@pytest.mark.parametrize("module", MOVED.values())
def test_every_moved_module_is_there(module: str) -> None:
    import_module(module)


def test_a_person_may_go_on_typing_the_path_of_0_1_0() -> None:
    old = "hpc_localsgd.plan"
    gossip = ["--algorithm=gossip", f"--algorithm.topology={old}.topology.static.ring"]
    every = f"--schedule={old}.schedule.every"
    typed = parse([*gossip, every, "--schedule.steps=3", f"--rate={old}.rates.constant"])
    assert typed.config.algorithm.topology == ring()
    now = ["--algorithm.topology=ring", "--schedule=every", "--schedule.steps=3", "--rate=constant"]
    assert typed.text == parse(["--algorithm=gossip", *now]).text


def test_other_words_stay_as_they_are() -> None:
    for text in ("hpc_localsgd.plan.schedules.x", "my.hpc_localsgd.planner", "hpc_localsgd.every"):
        assert where_now(text) == text
