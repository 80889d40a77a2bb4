"""Whatever is typed: done or refused in one sentence, without a traceback and with nothing left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from fuzzed import PARSERS, as_file, given, words
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import given as for_all
from odd_lines import TINY, check, in_a_folder, parsed

from hpc_localsgd.__main__ import COMMANDS

pytestmark = pytest.mark.usefixtures("short")
SMALL_IMAGES = {"task.model": "resnet8", "task.size": "8", "task.classes": "4"}
LINES = 16  # of a part; 320 in all
odd = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),  # a command line is short: no need to shrink it
    suppress_health_check=list(HealthCheck),
)


def test_every_command_is_fuzzed() -> None:
    assert set(PARSERS) == set(COMMANDS)


def of_a_run(command: str) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Options of a command, a few."""
    return given(parsed(command))


def typed(pairs: list[tuple[str, str]], command: str) -> list[str]:
    named = dict(pairs)
    tiny = {k: v for k, v in TINY.items() if k not in named and k.partition(".")[0] not in named}
    if "epochs" in named:
        tiny.pop("steps", None)
    if named.get("task") == "synthetic_images":
        tiny |= {name: value for name, value in SMALL_IMAGES.items() if name not in named}
    return words([*tiny.items(), *pairs], parsed(command))


def for_lines(part: int, drawn: st.SearchStrategy[Any], claim: Callable[[Any], None]) -> None:
    """Check a claim for the lines of a part, the same ones every time."""

    def holds(case: Any) -> None:
        claim(case)

    seed(part)(settings(odd, max_examples=LINES)(for_all(drawn)(holds)))()


@pytest.mark.parametrize("part", range(8))
def test_train_does_or_refuses(part: int) -> None:
    def claim(pairs: list[tuple[str, str]]) -> None:
        with in_a_folder() as folder:
            check("train", typed(pairs, "train"), folder, done=(0, 3, 85))

    for_lines(part, of_a_run("train"), claim)


@pytest.mark.parametrize("part", range(4))
def test_plan_does_or_refuses_and_writes_nothing(part: int) -> None:
    def claim(pairs: list[tuple[str, str]]) -> None:
        with in_a_folder() as folder:
            check("plan", typed(pairs, "plan"), folder)
            assert sorted(folder.rglob("*")) == [folder / "precious"]

    for_lines(part, of_a_run("plan"), claim)


@pytest.mark.parametrize("part", range(4))
def test_a_file_is_done_or_refused(part: int) -> None:
    for_lines(part, of_a_run("train"), a_file_is_done_or_refused)


def a_file_is_done_or_refused(pairs: list[tuple[str, str]]) -> None:
    in_words = [(name, value) for name, value in TINY.items() if name not in dict(pairs)]
    with in_a_folder() as folder:
        (folder / "run.yaml").write_text(as_file(pairs), encoding="utf-8")
        own = {name for name, _ in pairs}
        tiny = [p for p in in_words if p[0].partition(".")[0] not in own]
        if dict(pairs).get("task") == "synthetic_images":
            tiny += [p for p in SMALL_IMAGES.items() if p[0] not in own]
        if "epochs" in own:
            tiny = [p for p in tiny if p[0] != "steps"]
        argv = ["--config=run.yaml", *words(tiny, parsed("train"))]
        check("train", argv, folder, done=(0, 3, 85))


OTHERS = sorted(set(COMMANDS) - {"train", "plan"})
BEHIND = {"verify": ["--model=nowhere:f"], "doctor": ["--bogus"], "pack": ["x", "y"]}


@pytest.mark.parametrize("part", range(4))
def test_other_commands_refuse_what_is_no_run(part: int) -> None:
    def claim(case: tuple[str, list[tuple[str, str]]]) -> None:
        command, pairs = case
        with in_a_folder() as folder:
            behind = BEHIND.get(command, ["precious"])
            if "model" in dict(pairs):  # one that is given twice would be said, too
                behind = [word for word in behind if not word.startswith("--model")]
            argv = words(pairs, parsed(command)) + behind
            status, _ = check(command, argv, folder, done=(0,))
            assert status in ((2,) if command != "summary" else (0, 2))

    drawn = st.sampled_from(OTHERS).flatmap(lambda c: st.tuples(st.just(c), of_a_run(c)))
    for_lines(part, drawn, claim)
