"""A network in a few typed words: `20us,1.2GB/s,trunk=10GB/s/32,allreduce=halving`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpc_localsgd.cost.contention import ALLREDUCE
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.errors import ConfigurationError

_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATES = {
    f"{prefix}{unit}/s": factor / bits
    for prefix, factor in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))
    for unit, bits in (("B", 1), ("b", 8))
}
HOW = (
    "write alpha=20us (us, ms, s), beta=1.2GB/s (a rate: kB/s, MB/s, GB/s, TB/s, or in bits Gb/s), "
    "trunk=10GB/s/32 (its rate, and how many workers in a row are behind each), core=10GB/s, "
    f"allreduce={' or '.join(ALLREDUCE)}"
)


def typed(name: str) -> Network | None:
    """Return the network of words that begin with latency and rate; None if they do not.

    Args:
        name: `ALPHA,RATE`, with or without `alpha=` and `beta=`, and what is shared behind it.

    Raises:
        ConfigurationError: A word behind them is not understood.
    """
    first, second, *rest = [*name.split(","), ""]
    alpha = _quantity(first.strip().removeprefix("alpha="), _TIMES)
    rate = _quantity(second.strip().removeprefix("beta="), _RATES)
    if alpha is None or not rate:
        return None
    return replace(
        with_words(Network(name, alpha, rate), [word for word in rest if word]), name=name
    )


def with_words(network: Network, words: Sequence[str]) -> Network:
    """Return a network with what typed words say of it.

    Args:
        network: Without them.
        words: As `core=10GB/s`.

    Raises:
        ConfigurationError: One is not understood; says what can be typed.
    """
    for word in words:
        key, _, value = word.strip().partition("=")
        changed = _changed(network, key, value)
        if changed is None:
            raise ConfigurationError(f"network {network.name!r}: {word!r} is not understood: {HOW}")
        network = changed
    return network


def _changed(network: Network, key: str, value: str) -> Network | None:
    if key == "allreduce":
        return replace(network, allreduce=value) if value in ALLREDUCE else None
    if key == "alpha":
        alpha = _quantity(value, _TIMES)
        return None if alpha is None else replace(network, latency_s=alpha)
    behind = re.fullmatch(r"(.+/s)/([0-9]{1,9})", value) if key == "trunk" else None
    rate = _quantity(behind[1] if behind else value, _RATES)
    if not rate:
        return None
    if behind and int(behind[2]):
        shared = replace(network.shared, workers=int(behind[2]), trunk_bytes_per_s=rate)
        return replace(network, shared=shared)
    if key == "core":
        return replace(network, shared=replace(network.shared, core_bytes_per_s=rate))
    return replace(network, bytes_per_s=rate) if key == "beta" else None


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    """Return a number with its unit; None if it is neither."""
    found = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?) *([A-Za-z/]+)", text.strip())
    if not found or found[2] not in units:
        return None
    try:
        return float(found[1]) * units[found[2]]
    except ValueError:
        return None
