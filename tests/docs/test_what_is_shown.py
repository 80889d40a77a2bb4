"""Every command, option, default, file and name that README and docs/ show exists."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pages
import pytest

from hpc_localsgd.__main__ import COMMANDS
from hpc_localsgd.commands.configuration.config import CHOICES, choices, parse, parser
from hpc_localsgd.commands.configuration.names import optimizers, options_at
from hpc_localsgd.commands.configuration.options import Config

PLACES = {name: f"{name}.command" for name in ("plan", "whatif", "sweep")}
PLACES |= {name: f"{name}.options" for name in ("verify", "sharpness", "landscape")}
# Of launchers, Slurm and build tools.
FOREIGN = set(
    "--batch --bind_to --cpu_bind --cpus_per_task --disable_cache --exclusive --gloo"
    " --gpus_per_node --gpus_per_task --gres --host"
    " --kill_on_invalid_dep --max_restarts --min_np --mincpus --mpi --network_interfaces"
    " --nnodes --no_kill --no_requeue --nodes --nproc_per_node --ntasks"
    " --ntasks_per_node --oversubscribe --rdzv_backend --rdzv_conf --rdzv_endpoint --rdzv_id"
    " --requeue --signal --time".split()
)
MINE = pages.ROOT / "examples" / "extending"


def is_whole(shown: pages.Shown) -> bool:
    """Whether it is a command line to be typed as it stands: `--out RUN` is none."""
    of_a_run = any(word.startswith("--config") for word in shown.words)
    return not of_a_run and not any(word.isupper() for word in shown.words)


TRAININGS = [shown for shown in pages.commands() if shown.command == "train"]
WHOLE = [shown for shown in TRAININGS if is_whole(shown)]


@pytest.fixture(autouse=True)
def modules_of_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MINE))


@cache
def known(command: str) -> frozenset[str]:
    """The options of a command, as its own parser has them."""
    if command == "train":
        made: Any = parser("train")
    else:
        made = import_module(f"hpc_localsgd.commands.{PLACES.get(command, command)}").parser()
    names = {pages.named(name) for name in made._option_string_actions if name.startswith("--")}
    return frozenset(
        names | {"--help"} | ({"--help_all"} if command in ("train", "plan") else set())
    )


@cache
def of_choices() -> frozenset[str]:
    """Every dotted option of everything that can be chosen, as `--schedule.every`."""
    found = set()
    for option in CHOICES:
        of = f"--algorithm.{option}" if option in ("topology", "compressor") else f"--{option}"
        found |= {of, f"{of}.help"}
        for path in choices(option).values():
            found |= {f"{of}.{name}" for name in options_at(path)}
    for name in optimizers():
        found |= {f"--optimizer.{each}" for each in options_at(f"torch.optim.{name}")}
    return frozenset(found | {"--optimizer.lr"})


def exists(option: str, command: str) -> bool:
    dotted = "." in option and command in ("train", "plan")
    return option in known(command) or (dotted and option in of_choices())


@pytest.mark.parametrize("shown", pages.commands(), ids=str)
def test_every_command_and_its_options_exist(shown: pages.Shown) -> None:
    assert shown.command in COMMANDS
    own = {"--algorithm.alpha", "--schedule.most"} if any("mine." in w for w in shown.words) else ()
    for option in shown.options:
        assert option in own or exists(option, shown.command), f"there is no {option}: {shown}"


@pytest.mark.parametrize("shown", WHOLE, ids=str)
def test_every_command_line_of_a_training_is_understood(shown: pages.Shown) -> None:
    words = list(shown.words)
    if any(re.fullmatch(r"--([a-z]+\.)?help", word) for word in words):
        with pytest.raises(SystemExit) as end:
            parse(words)
        assert end.value.code in (0, None)
    else:
        assert parse(words).config is not None


@pytest.mark.parametrize("page", sorted({page for page, _ in pages.options()}))
def test_every_option_that_is_named_exists(page: str) -> None:
    there = of_choices().union(FOREIGN, *map(known, COMMANDS))
    named = [option for of, option in pages.options() if of == page]
    assert [option for option in named if option not in there] == []


@pytest.mark.parametrize(("page", "option", "default"), pages.defaults())
def test_every_default_is_what_the_page_says(page: str, option: str, default: str) -> None:
    name, *inner = option[2:].replace("-", "_").split(".")
    if name == "optimizer":
        made = parser("train").get_defaults().optimizer
        assert default == str(made.init_args[inner[0]] if inner else made.class_path.split(".")[-1])
        return
    value: Any = getattr(Config(), name)
    value = getattr(value, inner[0]) if inner else value
    said = value if isinstance(value, str | int | float) else type(value).__name__
    assert str(said) == default, f"{page}: the default of {option} is {said}"


def test_there_is_something_to_test() -> None:
    assert len(pages.commands()) > 40 and len(WHOLE) > 8
    assert len(pages.options()) > 60 and len(pages.defaults()) > 10


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_files_targets_and_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    for span in pages.spans(page):
        if match := re.match(r"make ([a-z-]+)", span):
            assert match[1] in targets, f"{page.name}: {span}"
        if re.fullmatch(r"(examples|docs|slurm|benchmarks|tests|hpc_localsgd)/[\w./-]+", span):
            assert span == "slurm/sites/name.sh" or (pages.ROOT / span).exists(), (
                f"{page.name}: {span}"
            )
        if re.fullmatch(r"hpc_localsgd(\.\w+)+", span):
            assert found(span), f"{page.name}: {span}"


def found(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(import_module(module), name) or bool(import_module(dotted))
    except ModuleNotFoundError:
        return False
