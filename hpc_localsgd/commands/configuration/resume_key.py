"""What of a configuration must be the same for a run to be resumed, as one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

NOT_THE_RUN = (  # may differ when resuming
    "config",
    "trust",
    "out",
    "resume",
    "resume_from_mean",
    "extend",
    "overwrite",
    "log",
    "log_every",
    "log_format",
    "figures",
    "save_model",
)

ELSEWHERE = ("init_from", "init_with")  # where parameters are from; written where they are asked

# Options, and arguments of classes, that version 0.1 did not have, with the value that does what it
# did: left out where they have it, so that what 0.1 began can be resumed.
SINCE_0_1 = {"partition": "iid", "label_noise_from": 0, "moments_every": {}, "uncertainty_every": 0}
ARGUMENTS_SINCE_0_1: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Hierarchical", "SlowMo", "StreamingDiLoCo", "TopK"), {"compressor": None}),
    "synthetic_images": {"channels": 3},
    "sequences": {"cell": "lstm"},
}

# That of libyaml reads what the parser wrote four times as fast; some builds of PyYAML have none.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LENGTH = ("steps", "epochs")  # may differ too, where `run.extend` allows it

NO_NUMBERS = ("checkpoint_every", "checkpoint_keep", "watchdog")  # may differ too, and are kept


def resume_key(text: str, but: Sequence[str] = ()) -> str:
    """Return the configuration without the options that change no number of a run.

    Args:
        text: The configuration.
        but: Names of further options to leave out.
    """
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(":")[0] not in (*NO_NUMBERS, *but))


def text_of(made: ArgumentParser, parsed: Any) -> str:
    """Return what was parsed as YAML, in the one spelling that is recorded of it."""
    # The parser has checked it: that takes as long again as writing it.
    dumped = made.dump(parsed, skip_unset=False, skip_validation=True)
    whole = yaml.load(dumped, Loader=_LOADER)  # noqa: S506, a safe loader
    for name in NOT_THE_RUN:
        whole.pop(name, None)
    if whole.get(ELSEWHERE[0]) is None:  # texts of before these options, and today's, are the same
        for name in ELSEWHERE:
            whole.pop(name, None)
    return str(yaml.safe_dump(_as_before(_with_arguments(whole), SINCE_0_1), sort_keys=False))


def _with_arguments(value: Any) -> Any:
    """Give every class in the options its arguments, even if none, so that a run has one text."""
    if not isinstance(value, dict):
        return value
    found = {name: _with_arguments(inside) for name, inside in value.items()}
    return {**found, "init_args": found.get("init_args", {})} if "class_path" in found else found


def _as_before(options: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Return options, or the arguments of a class, without what is as in version 0.1."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in usual and value == usual[name]:
            continue
        found[name] = value
        if isinstance(value, dict) and "class_path" in value:
            since = ARGUMENTS_SINCE_0_1.get(value["class_path"].rpartition(".")[2], {})
            found[name] = {**value, "init_args": _as_before(value["init_args"], since)}
    return found
