"""Messages for what the parser refuses, in the user's terms: which option, and what it takes.

jsonargparse answers with the types and class paths it was given. What is not recognised here is
passed on as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hpc_localsgd.commands.configuration.names import (
    CHOICES,
    choices,
    name_at,
    nearest,
    optimizers,
    options_at,
    unknown,
)

Show = Callable[[str], str]

_UNRECOGNIZED = "unrecognized arguments: "
_KEY = re.compile(r'Parser key "([\w.]+)": ?')
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
_NOT_ACCEPTED = re.compile(r"Option '([^']+)' is not accepted")
_NESTED = re.compile(r"Got value: NestedArg\(key='([\w.]+)'")
_NO_OPTIMIZER = re.compile(
    r"Expected a dot import path string: (\S+)|module 'torch.optim' has no attribute '(\w+)'"
)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_NO_PATH = re.compile(r"(?:Unexpected import path format|Expected a dot import path string): (\S+)")
_NUMBER_OF = {"rate": "rate.lr", "schedule": "schedule.every", "gradient": "gradient.rho"}
_ELSEWHERE = {  # as it is called in other libraries, and in sentences
    **dict.fromkeys(("lr", "learning_rate"), "rate.lr"),
    **dict.fromkeys(
        ("batch_size", "batch", "bs", "per_device_train_batch_size"), "batch_per_worker"
    ),
    **dict.fromkeys(("wd", "weight_decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("max_steps", "num_steps", "iterations"), "steps"),
    **dict.fromkeys(("num_epochs", "max_epochs", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("output", "output_dir", "save_dir", "logdir", "folder"), "out"),
    **dict.fromkeys(("H", "local_steps", "sync_every", "period"), "schedule.every"),
    **dict.fromkeys(("data", "data_dir", "dataset_dir"), "task.data"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "precision"),
    **dict.fromkeys(("gpu", "cuda"), "device"),
    **dict.fromkeys(("nproc", "np", "num_workers", "world_size"), "workers"),
    "momentum": "optimizer.momentum",
    "nesterov": "optimizer.nesterov",
    "betas": "optimizer.betas",
    "warmup": "rate.warmup",
    "scheduler": "rate",
    "lr_scheduler": "rate",
    "model": "task.model",
    "dataset": "task",
    "topology": "algorithm.topology",
    "compressor": "algorithm.compressor",
    "compression": "algorithm.compressor",
    "gradient_accumulation_steps": "accumulate",
}
_ONE_TYPE = re.compile(r"Expected an? (.+?)\. Got value: (.*?)(?:\. Got value: |$)", re.MULTILINE)
_TYPES = re.compile(
    r"Subtypes: \[(.+)\]$(?:.|\n)*?Given value: (.*?)(?:\. Got value: |$)", re.MULTILINE
)
_TYPE = re.compile(r"<class '(?:[a-z_]+\.)*(\w+)'>|(?:typing\.)?Literal\[(.+?)\]")
_WORDS = {
    **{"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"},
    **dict.fromkeys(("Sequence", "list", "tuple"), "values in brackets"),
}
_NOT_TYPED = ("NoneType", "Tensor")  # what an option may be besides, and nobody types


def typed(name: str) -> str:
    """Return an option as it is typed on a command line."""
    return "--" + name.replace("_", "-")


def written(name: str) -> str:
    """Return an option as it is written in a file."""
    return name


def keys(message: str) -> list[str]:
    """Return the place of an error in the configuration: names from the outside to the inside."""
    accused = _NOT_ACCEPTED.search(message)
    return [*_KEY.findall(message), *([accused.group(1)] if accused else [])]


def in_words(message: str, options: Sequence[str], show: Show = typed) -> str:
    """Rewrite the parser's message as one line for a user.

    Args:
        message: What jsonargparse said.
        options: Names of all options.
        show: Writes the name of an option.
    """
    message = message.removeprefix("Problems parsing config: ")
    key = ".".join(_KEY.findall(message))
    if message.startswith(_UNRECOGNIZED):
        return _unrecognized(message.removeprefix(_UNRECOGNIZED).split(), options, show)
    if accused := _NOT_ACCEPTED.search(message):
        return _not_accepted(message, key, accused.group(1), options, show)
    if (accused := _NO_OPTIMIZER.search(message)) and key == "optimizer":
        return unknown(key, accused.group(1) or accused.group(2), optimizers())
    if accused := _NESTED.search(message):
        return f"{show(key)} has no options of its own: there is no {show(key)}.{accused.group(1)}"
    if accused := _DENIED.search(message):
        return f"{show(key)} may not name {accused.group(1)}"
    if key in CHOICES and (accused := _NO_PATH.search(message)):
        return _no_class(key, accused.group(1), show)
    return _of_other_type(message, key, show) or _as_it_was(message, key, show)


def _no_class(key: str, value: str, show: Show) -> str:
    """Explain a value that names no class; a number was meant for an option of the class."""
    meant = _NUMBER_OF.get(key)
    if meant and re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", value):
        known = ", ".join(sorted(choices(key)))
        return f"{show(key)} is one of {known}, got {value} - did you mean {show(meant)} {value}?"
    return unknown(key, value, choices(key))


def _unrecognized(words: Sequence[str], options: Sequence[str], show: Show) -> str:
    """Explain an unknown option, which takes its value with it, or a word too many."""
    for word in words:
        if re.match("-+[A-Za-z]", word):
            name = word.lstrip("-").partition("=")[0]
            return _no_such_option(name, options, show)
    return f"{words[0]!r} is not the value of an option" if words else _UNRECOGNIZED


def _no_such_option(name: str, options: Sequence[str], show: Show) -> str:
    first, dot, rest = name.partition(".")
    if not dot and _ELSEWHERE.get(first.replace("-", "_"), "").partition(".")[0] in options:
        meant = show(_ELSEWHERE[first.replace("-", "_")])
        return f"there is no option {show(name)} - did you mean {meant}?"
    near = nearest(first, options)
    guess = f" - did you mean {show(near + dot + rest)}?" if near and near != first else ""
    return f"there is no option {show(name)}{guess}"


def _not_accepted(message: str, key: str, name: str, options: Sequence[str], show: Show) -> str:
    """Explain that a class has no such option, and list those that it has."""
    classes = _CLASS.findall(message)
    if not key or not classes:
        return _no_such_option(name, options, show)
    known = options_at(classes[-1])
    near = nearest(name, known)
    kind = key.rpartition(".")[2]
    guess = f" - did you mean {show(f'{key}.{near}')}?" if near else _others_with(kind, name)
    has = ", ".join(known) or "none"
    return f"{kind} {name_at(kind, classes[-1])} has no option {name!r}: it has {has}{guess}"


def _others_with(kind: str, name: str) -> str:
    """Say which choices of a kind have an option; nothing where none has."""
    known = choices(kind) if kind in CHOICES else {}
    found = sorted(each for each, path in known.items() if name in options_at(path))
    return f" - of {kind} {', '.join(found)} it is one" if found else ""


def _of_other_type(message: str, key: str, show: Show) -> str | None:
    said = _KEY.split(message)[-1]  # of the innermost option
    match = _TYPES.search(said) or _ONE_TYPE.search(said)
    wanted = _wanted(match.group(1)) if match and key else None
    return f"{show(key)} wants {wanted}, got {match.group(2)}" if match and wanted else None


def _wanted(types: str) -> str | None:
    """Describe types in words; return None if one of them has no words."""
    if re.search(r"\w", _TYPE.sub("", types)):
        return None
    words = []
    for name, literals in _TYPE.findall(types):
        if literals:
            words += [each.strip(" '\"") for each in literals.split(",")]
        elif name not in _NOT_TYPED:
            words += _WORDS.get(name, "").split(" or ")
    if not words or "" in words:
        return None
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _as_it_was(message: str, key: str, show: Show) -> str:
    rest = " ".join(_KEY.split(message)[-1].split())
    return f"{show(key)}: {rest}" if key else rest
