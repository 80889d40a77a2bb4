"""Command lines nobody would type: every option of every command, by its type, with odd values."""

from __future__ import annotations

import typing
from argparse import Action, ArgumentParser
from collections.abc import Callable
from typing import Any, Literal

import hypothesis.strategies as st

from hpc_localsgd.commands import cite, compare, completion, doctor, export, pack, report, summary
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.configuration.names import (
    CHOICES,
    choices,
    class_at,
    optimizers,
    options_at,
)
from hpc_localsgd.commands.landscape import options as landscape
from hpc_localsgd.commands.plan import command as plan
from hpc_localsgd.commands.sharpness import options as sharpness
from hpc_localsgd.commands.sweep import command as sweep
from hpc_localsgd.commands.verify import options as verify
from hpc_localsgd.commands.whatif import command as whatif

PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "train": lambda: config.parser("train"),
    "plan": plan.parser,
    "verify": verify.parser,
    "sharpness": sharpness.parser,
    "landscape": landscape.parser,
    "pack": pack.parser,
    "export": export.parser,
    "report": report.parser,
    "sweep": sweep.parser,
    "whatif": whatif.parser,
    "compare": compare.parser,
    "cite": cite.parser,
    "summary": summary.parser,
    "doctor": doctor.parser,
    "completion": completion.parser,
}
NO_VALUES = ("help", "print_config", "config", "trust")  # end the command, or are no options of it
ODD = (
    *("", " ", "-", "x", "null", "no", "true", "nan", ".nan", "inf", "-.inf", "1e400", "1e300"),
    *("0", "-0.0", "-1", "1", "2", "1.5", "0.5", "1e-300", "1e11", "1000000000", "100000000000"),
    *(str(2**63), str(2**64), "-" + str(2**64), "010", "0x1F", "1_000", "10:00", "99:99:99"),
    *("1:30:00", "2026-01-01", "50%", "200%", "-5%", "1e300 epochs", "2 weeks", "0 epochs"),
    *("[]", "[1", "[1, 2]", "[-1]", "[x]", "[nan]", "[[1, x], [0, 1]]", "[[0.5, 0.5], [0.5, 0.5]]"),
    *("[[1j, 0], [0, 1]]", "[[]]", "[[1]]", "{}", "{a: b}", "{class_path: x}", "a: b", "!!int x"),
    *("meta", "cuda:99", "../x", "/dev/null", "/proc/x/y", "é", "a\tb", "*", "&a [*a]", "'", '"'),
)
USUAL = {int: ("1", "2", "3"), float: ("0.1", "0.5", "1.0"), str: ("a", "2 epochs", "25%")}


def _of_type(annotation: Any) -> tuple[str, ...]:
    """Values that an option of this type may have."""
    inside = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return tuple(map(str, inside))
    if annotation is bool:
        return ("true", "false")
    if inside and typing.get_origin(annotation) is not type:
        parts = tuple(value for each in inside for value in _of_type(each))
        listed = tuple(f"[{value}, {value}]" for value in parts[:2])
        return parts + (listed if typing.get_origin(annotation) in (list, tuple) else ())
    return USUAL.get(annotation, ())


def _kind(action: Action) -> str | None:
    """Of an option that takes a class: of which kind."""
    return action.dest if action.dest in CHOICES or action.dest == "optimizer" else None


def classes(kind: str) -> dict[str, str]:
    """Short name -> path of what an option of a kind can be."""
    if kind == "optimizer":
        return {name: f"torch.optim.{name}" for name in optimizers()}
    return choices(kind)


def _inside(path: str) -> dict[str, tuple[str, ...]]:
    """The options of a class, and values of their types."""
    try:
        hints = typing.get_type_hints(class_at(path).__init__)
    except (NameError, TypeError):
        hints = {}
    found = {}
    for name in options_at(path):
        found[name] = tuple(choices(name)) if name in CHOICES else _of_type(hints.get(name))
    return found


def given(made: ArgumentParser) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Options of a parser with a value each, a few of them; those of a class go with its name."""
    chosen = []
    for action in made._actions:
        if not action.option_strings or action.dest in NO_VALUES or "help" in action.dest:
            continue
        kind = _kind(action)
        if kind is not None:
            chosen += [_with_arguments(kind, *item) for item in classes(kind).items()]
        elif action.nargs == 0:
            chosen.append(st.just([(action.dest, "")]))
        else:
            hint = getattr(action, "_typehint", None)
            usual = _of_type(hint) or tuple(map(str, action.choices or ()))
            chosen.append(_values(action.dest, usual))
    if not chosen:
        return st.just([])
    few = st.lists(st.sampled_from(chosen).flatmap(lambda one: one), min_size=1, max_size=3)
    return few.map(lambda several: list(dict(pair for one in several for pair in one).items()))


def _values(name: str, usual: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, str]]]:
    odd = st.sampled_from(ODD)
    value = st.one_of(odd, st.sampled_from(usual)) if usual else odd
    return value.map(lambda text: [(name, text)])


def _with_arguments(kind: str, name: str, path: str) -> st.SearchStrategy[list[tuple[str, str]]]:
    named = st.just([(kind, name)])
    arguments = [_values(f"{kind}.{each}", usual) for each, usual in _inside(path).items()]
    if not arguments:
        return named
    some = st.lists(st.sampled_from(arguments).flatmap(lambda one: one), max_size=2)
    return st.tuples(named, some).map(lambda two: [*two[0], *(p for one in two[1] for p in one)])


def words(pairs: list[tuple[str, str]], made: ArgumentParser) -> list[str]:
    """Options as they are typed."""
    bare = {action.dest for action in made._actions if action.nargs == 0}
    typed = [(f"--{name.replace('_', '-')}", name, value) for name, value in pairs]
    return [option if name in bare else f"{option}={value}" for option, name, value in typed]


def as_file(pairs: list[tuple[str, str]]) -> str:
    """Options as a file has them, which is YAML in its turn and not quoted."""
    inside: dict[str, list[str]] = {}
    lines = []
    for name, value in pairs:
        of, _, own = name.partition(".")
        if own:
            inside.setdefault(of, []).append(f"{own}: {value}")
    for name, value in pairs:
        if name in inside:
            arguments = ", ".join(inside[name])
            lines.append(f"{name}: {{class_path: {value}, init_args: {{{arguments}}}}}")
        elif "." not in name:
            lines.append(f"{name}: {value}")
    return "\n".join(lines) + "\n"
