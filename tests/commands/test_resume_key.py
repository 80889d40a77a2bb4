"""What is compared on resuming leaves out what version 0.1.0 did not have, unless it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.configuration.names import CHOICES, choices

# Class -> its arguments, and all options, as commit 0cab640 had them.
THEN: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("arguments_of_0_1_0.json").read_text()
)
WITHIN = {  # where one is an argument of another
    "topology": ["--algorithm=gossip", "--algorithm.topology={}"],
    "compressor": ["--algorithm=local_sgd", "--algorithm.compressor={}"],
}
WITHOUT_DEFAULTS = ("custom", "lazy")  # of their arguments


def of_then() -> list[tuple[str, str]]:
    found = [(option, short, path) for option in CHOICES for short, path in choices(option).items()]
    named = [(o, short) for o, short, path in found if path.rpartition(".")[2] in THEN]
    return [pair for pair in named if pair[1] not in WITHOUT_DEFAULTS]


def written(option: str, short: str) -> dict[str, Any]:
    words = WITHIN.get(option, ["--" + option + "={}"])
    text = config.parse([word.format(short) for word in words]).text
    whole: dict[str, Any] = yaml.safe_load(text)
    assert set(whole) <= set(THEN["options"])
    inside = whole if option in whole else whole["algorithm"]["init_args"]
    made: dict[str, Any] = inside[option]
    return made


@pytest.mark.parametrize(("option", "short"), of_then())
def test_a_class_of_0_1_0_has_the_arguments_it_had(option: str, short: str) -> None:
    made = written(option, short)
    assert set(made["init_args"]) <= set(THEN[made["class_path"].rpartition(".")[2]])


def test_what_is_used_is_compared() -> None:
    words = ["--algorithm=slowmo", "--algorithm.compressor=sign", "--moments_every={exp_avg: 3}"]
    whole = yaml.safe_load(config.parse([*words, "--momentum_at_sync=average"]).text)
    assert whole["moments_every"] == {"exp_avg": 3}
    assert whole["algorithm"]["init_args"]["compressor"]["class_path"].endswith("Sign")
