"""Bounds that follow from a name hold where the name means what it means here."""

from __future__ import annotations

from typing import Any

import pytest

from hpc_localsgd.commands.configuration.value_checks import check
from hpc_localsgd.errors import ConfigurationError


def of(path: str, **arguments: Any) -> dict[str, Any]:
    return {"algorithm": {"class_path": path, "init_args": arguments}}


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("hpc_localsgd.algorithms.slowmo.SlowMo", {"beta": 1.5}),
        ("torch.optim.SGD", {"momentum": -0.1}),
        ("torch.optim.Adam", {"betas": [0.9, 1.0]}),
    ],
)
def test_momenta_are_below_1(path: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="give a number from 0 to below 1"):
        check(of(path, **arguments), {})


def test_names_of_a_class_of_a_user_are_the_users() -> None:
    mine = "pathlib.PurePath"  # any class of another package
    check(of(mine, beta=1.5, factor=3.0, size=0), {})
    with pytest.raises(ConfigurationError, match="finite"):
        check(of(mine, beta=float("nan")), {})
