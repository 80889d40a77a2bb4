"""A network fitted to measurements, and the time limits of Slurm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpc_localsgd.cost.cost_model import NETWORKS, Network
from hpc_localsgd.cost.fitting import fit_network
from hpc_localsgd.cost.formatting import grouped, human_seconds, percent, slurm_time
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.time_limit import seconds_of

SIZES = [4e3, 64e3, 1e6, 32e6]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=str)
def test_exact_times_give_the_network_back(network: Network) -> None:
    found = fit_network(
        SIZES, [network.seconds(6, size) for size in SIZES], messages=6, name="found"
    )
    assert found.name == "found"
    assert found.latency_s == pytest.approx(network.latency_s)
    assert found.bytes_per_s == pytest.approx(network.bytes_per_s)


def test_noisy_times_give_nearly_the_network_back() -> None:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, len(SIZES))
    exact = np.array([NETWORKS["10GbE"].seconds(6, size) for size in SIZES])
    found = fit_network(SIZES, list(exact * noise), messages=6)
    assert found.latency_s == pytest.approx(20e-6, rel=0.1)
    assert found.bytes_per_s == pytest.approx(1.17e9, rel=0.1)


def test_neither_latency_nor_bandwidth_becomes_negative() -> None:
    assert fit_network([1e3, 1e6], [1e-7, 1e-3]).latency_s == 0.0
    falling = fit_network([1e3, 1e6], [2e-3, 1e-3])
    assert falling.latency_s > 0
    assert falling.seconds(1, 1e9) == pytest.approx(falling.latency_s)


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([], []), ([8], [1.0]), ([8, 8], [1.0, 2.0]), ([8, 9], [1.0, 0.0])]
)
def test_what_cannot_be_fitted_is_refused(sizes: list[float], seconds: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="at least two different sizes"):
        fit_network(sizes, seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("1:30:00", 5400),
        ("2-12", 60 * 3600),
        ("2-12:30", 60 * 3600 + 1800),
        ("1-00:00:05", 86_405),
        (" 5\n", 300),
        ("UNLIMITED", math.inf),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1.5", "NOT_SET"])
def test_other_texts_are_no_time_limit(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1:30:00"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["1:60", "1:60:00", "1:00:60", "1-24", "1-1:60", "1-1:00:60"])
def test_too_many_of_a_unit_after_a_larger_one_are_a_slip(text: str) -> None:
    with pytest.raises(ConfigurationError, match="followed by 0 to 59 minutes"):
        seconds_of(text)


def test_the_first_number_may_be_as_large_as_one_likes() -> None:
    found = [seconds_of(text) for text in ("90:59", "99:59:59", "400-23:59:59")]
    assert found == [90 * 60 + 59, 100 * 3600 - 1, 401 * 86400 - 1]


def test_numbers_for_a_person() -> None:
    assert grouped(93_600) == "93,600"
    seconds = [0, 0.012, 3.5, 90, 119.4, 119.6, 444, 2520, 3596, 3598, 25_500, 108_000, 183_600]
    shown = ["0 s", "12 ms", "3.5 s", "90 s", "119 s", "1.99 min", "7.4 min", "42 min", "59.9 min"]
    shown += ["1 h 00 min", "7 h 05 min", "30 h 00 min", "2 d 03 h"]
    assert [human_seconds(s) for s in seconds] == shown
    assert slurm_time(4885) == "01:22:00"


def test_a_small_share_is_not_nothing() -> None:
    shares = [0.0, 3.44e-4, 0.0049, 0.00996, 0.25, 1.0]
    shown = ["0.0 %", "0.034 %", "0.49 %", "1.0 %", "25.0 %", "100.0 %"]
    assert [percent(share) for share in shares] == shown


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_seconds_that_are_not_known_are_a_dash(seconds: float) -> None:
    assert human_seconds(seconds) == "-"
