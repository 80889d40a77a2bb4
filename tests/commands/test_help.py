"""The first page of help: short, true to the options behind it, and there at once."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from hpc_localsgd.commands.configuration import help_page
from hpc_localsgd.commands.configuration.config import arguments, parse
from hpc_localsgd.commands.configuration.names import choices
from hpc_localsgd.commands.configuration.options import Config
from hpc_localsgd.commands.plan.command import parser as plan_parser
from hpc_localsgd.train import main

SCREENS = 80  # lines: two screens of a terminal
OF_A_RUN = {f.name for f in fields(Config)}
SHOWN = {option for group in help_page.GROUPS.values() for option in group}


@pytest.mark.parametrize("columns", [80, 100])
def test_the_first_page_fits_two_screens(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0 and main(["--workers=4", "-h"]) == 0
    page, again = re.split(r"(?=^usage:)", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    assert page == again
    lines = page.splitlines()
    assert len(lines) <= SCREENS and max(map(len, lines)) <= columns
    for option in SHOWN:
        assert f"\n  --{option.replace('_', '-')}" in page
    assert "--help-all" in page and "None" not in page


def test_the_first_page_shows_options_that_there_are() -> None:
    assert SHOWN - OF_A_RUN == {"config", "optimizer"}
    assert set(help_page.about()) == OF_A_RUN  # all are described, and none that is gone


def test_options_are_shown_where_docstrings_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -OO` and PYTHONOPTIMIZE=2 do."""
    monkeypatch.setattr(Config, "__doc__", None)
    page = help_page.first_page("train")
    assert all(f"--{option.replace('_', '-')}" in page for option in SHOWN)


def test_the_first_page_names_options_that_can_be_typed() -> None:
    examples = [line.split("{prog} ")[1].split() for line in help_page.EXAMPLES.split("\n")[1:3]]
    assert [len(words) for words in examples] == [4, 2]
    for words in examples:
        parse(words)
    named = set(re.findall(r"--(\w+)\.", help_page._OF_ONE))
    assert named - {"optimizer"} == {"task", "algorithm", "schedule", "rate"} == named & OF_A_RUN


@pytest.mark.parametrize("option", ["task", "algorithm", "schedule", "rate"])
def test_names_on_the_first_page_are_those_that_can_be_typed(option: str) -> None:
    assert sorted(help_page.names(option)) == sorted(choices(option))


@pytest.mark.parametrize(("option", "shown"), [("seed", "0"), ("task", "digits")])
def test_defaults_are_shown(option: str, shown: str) -> None:
    assert f"(default: {shown})" in help_page._words(option)
    assert "default:" not in help_page._words("resume")


def test_a_command_with_the_options_of_a_run_shows_its_own_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(plan_parser(), ["--help"])
    page = capsys.readouterr().out
    assert ended.value.code == 0
    assert page.index("--step-time") < page.index("--task NAME") < page.index("--help-all")
    assert "before it starts" in page and "--sampling" not in page


@pytest.mark.parametrize("command", ["sharpness", "landscape", "export", "verify"])
def test_help_shows_options_as_they_are_typed_and_no_types_of_python(command: str) -> None:
    inside = ".options" if command in ("landscape", "sharpness", "verify") else ""
    page = import_module(f"hpc_localsgd.commands.{command}{inside}").parser().format_help()
    assert not re.search(r"--[a-z]+_|type: |null|None|False|required", page)
    assert " RUN\n" in page or command == "verify"


def test_help_of_one_class_has_no_types_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    for option, name in (("--algorithm", "local_sgd"), ("--optimizer", "AdamW")):
        with suppress(SystemExit):  # help was printed
            assert main([f"{option}.help", name]) == 0
        page = capsys.readouterr().out
        assert f"{option}." in page and ("One of: bf16, chunked" in page or "amsgrad" in page)
        assert not re.search("type: |usage: |subclass|CLASS_PATH", page)
        assert not re.search(r"\(default: \S+\)\s+\(default: ", page)


def test_help_waits_for_nothing_and_the_loop_brings_no_measuring() -> None:
    code = """
import sys
from hpc_localsgd.train import main
assert main(["--help"]) == 0
heavy = ("torch", "numpy", "h5py", "jsonargparse", "yaml")
print("of help", [m for m in heavy if m in sys.modules])
import hpc_localsgd.loop
heavy = ("hpc_localsgd.run.probes", "hpc_localsgd.curvature", "scipy", "matplotlib", "torchvision")
print("of the loop", [m for m in heavy if m in sys.modules])
from hpc_localsgd.commands.configuration.config import parse
parse(["--out=x"])
print("of the options", [m for m in ("networkx",) if m in sys.modules])
"""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300
    )
    none = "\nof help []\nof the loop []\nof the options []\n"
    assert none in said.stdout, said.stdout[-500:] + said.stderr[-2000:]
