"""Every argument of every class that an option names has a type, and values of others are refused.

The parser takes anything for an argument whose annotation it cannot look up. One annotation of a
base class that is not known in the class's own module was enough: `--task.model foo` was trained.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from fuzzed import classes

from hpc_localsgd.__main__ import main as command
from hpc_localsgd.commands.configuration.config import parse, parser
from hpc_localsgd.commands.configuration.names import CHOICES, class_at, options_at
from hpc_localsgd.errors import ConfigurationError


@pytest.mark.parametrize("kind", [*CHOICES, "optimizer"])
def test_every_argument_has_a_type_that_can_be_checked(kind: str) -> None:
    parser("train")
    for path in classes(kind).values():
        found = inspect.signature(class_at(path)).parameters
        for name in options_at(path):
            assert not isinstance(found[name].annotation, str), f"{path}: {name}"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--task text --task.model foo", "--task.model wants transformer, lstm or gru, got foo"),
        ("--task text --task.width 1.5", "--task.width wants a whole number, got 1.5"),
        ("--task quadratic --task.dim 1.5", "--task.dim wants a whole number, got 1.5"),
        ("--task quadratic --task.h abc", "--task.h wants values in brackets, got abc"),
        ("--task quadratic --task.h [1,x]", "--task.h wants a number, got x"),
        ("--task sequences --task.bidirectional 3", "wants true or false, got 3"),
        ("--task synthetic_images --task.norm foo", "wants batch, group or ghost, got foo"),
        ("--task imagenet --task.loaders x", "--task.loaders wants a whole number, got x"),
        ("--algorithm.compressor int8 --algorithm.compressor.error_feedback 2",
         "--algorithm.compressor.error-feedback wants true or false, got 2"),
        ("--algorithm.compressor top_k --algorithm.compressor.values float64",
         "--algorithm.compressor.values wants float32 or float16, got float64"),
        ("--algorithm hierarchical --algorithm.blocks 2", "wants values in brackets, got 2"),
        ("--optimizer Adam --optimizer.betas [0.9,x]", "--optimizer.betas wants a number, got x"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_in_a_line(argv: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(argv.split())
    message = str(caught.value)
    assert said in message
    assert "\n" not in message and "class" not in message and "Namespace" not in message


def test_no_in_the_words_of_yaml_is_false() -> None:
    made = parse("--task synthetic_images --task.augment no".split()).config.task
    assert made.augment is False  # type: ignore[attr-defined]


def test_numbers_become_what_the_class_says() -> None:
    made = parse("--task quadratic --task.noise 1 --task.h [2,3]".split()).config.task
    assert isinstance(made.noise, float)  # type: ignore[attr-defined]
    assert [*made.h] == [2.0, 3.0] and isinstance([*made.h][0], float)  # type: ignore[attr-defined]


USERS = """
from __future__ import annotations
from dataclasses import dataclass
from hpc_localsgd.compressors.int8 import Int8
from hpc_localsgd.tasks.base import TaskSpec

@dataclass(frozen=True)
class Mine(TaskSpec):
    width: int = 3

    def build(self, setting): raise NotImplementedError

@dataclass(frozen=True)
class Twice(Int8):
    bits: int = 8
"""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--task users_own.Mine --task.width x", "--task.width wants a whole number, got x"),
        (
            "--algorithm.compressor users_own.Twice --algorithm.compressor.bits x",
            "--algorithm.compressor.bits wants a whole number, got x",
        ),
    ],
)
def test_the_same_holds_for_a_class_of_one_s_own(
    argv: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose module does not import all that a base in another one is annotated with."""
    (tmp_path / "users_own.py").write_text(USERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_own", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        parse(argv.split())
    assert said in str(caught.value)
    monkeypatch.delitem(sys.modules, "users_own")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", sorted(classes("task")))
def test_the_defaults_of_every_task_are_written_without_a_warning(task: str) -> None:
    text = parse(["--task", task]).text
    assert parse(["--task", task]).text == text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("sweep grid.yaml --jobs x", "--jobs wants a whole number, got x (see"),
        ("whatif RUN --step-time soon", "--step-time wants a number, got soon (see"),
        ("pack", "nothing is given for FOLDER, FILE.h5 (see"),
        ("report RUN --width", "nothing is given for --width: type --width WIDTH (see"),
        ("report RUN --width x", "--width: 'x' is not a width: write a number and"),
        ("report RUN --formats gif", "--formats is one of png, pdf, svg, csv, got gif (see"),
        ("report RUN --watch=3", "--watch takes no value, got 3 (see"),
        ("report RUN --w", "--w may be --width, --watch: type all of it (see"),
        ("report RUN --formts svg", "there is no option --formts - did you mean --formats? (see"),
        ("whatif RUN --scaling", "nothing is given for --scaling: type one of weak, strong (see"),
        ("whatif RUN --workers", "nothing is given for --workers: type --workers K ... (see"),
        ("doctor 3 4", "'3' is not the value of an option (see"),
    ],
)
def test_commands_refuse_in_the_same_words(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(argv.split())
    assert ended.value.code == 2 and f": {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("plan --step-time", "nothing is given for --step-time: type --step-time STEP_TIME (see"),
        ("landscape RUN --dimensions", "nothing is given for --dimensions: type one of 1, 2 (see"),
        ("sharpness", "nothing is given for RUN (see"),
    ],
)
def test_so_do_commands_that_take_types(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(argv.split()) == 2 and f": {said}" in capsys.readouterr().err
