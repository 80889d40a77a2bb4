"""Descriptions of networks, and the commands that build them: nothing is made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.netlab import cables, launchers
from benchmarks.netlab.__main__ import table
from benchmarks.netlab.lab import Way
from benchmarks.netlab.network import NETWORKS, Link, Network, NetworkError, network

TWO_RACKS = """
hosts: 4
ranks_per_host: 2
link: {rate: 1 Gb/s, delay: 0.05 ms}
hosts_per_rack: 2
trunk: {rate: 100 Mb/s, delay: 2 ms}
links: {h3: {rate: 10 Mb/s}}
slow: {h2: 2}
"""


@pytest.fixture
def two_racks(tmp_path: Path) -> Network:
    file = tmp_path / "racks.yaml"
    file.write_text(TWO_RACKS)
    return network(str(file))


def test_a_file_says_all_of_a_network(two_racks: Network) -> None:
    link, trunk = Link(1e9, 50e-6), Link(100e6, 2e-3)
    want = Network("racks", 4, 2, link, 2, trunk, {"h3": Link(10e6)}, {"h2": 2})
    assert two_racks == want
    assert two_racks.ranks == 8


def test_a_way_is_as_slow_as_its_slowest_cable_and_sums_the_delays(two_racks: Network) -> None:
    assert two_racks.between(0, 1) == Link(1e9, 50e-6)
    across = two_racks.between(0, 2)
    assert across.bits_per_s == 100e6
    assert across.delay_s == pytest.approx(2.05e-3)
    assert two_racks.between(0, 3).bits_per_s == 10e6
    assert Network("free", 2).between(0, 1) == Link()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("link: {rate: 1 Gb/s}", "how many hosts"),
        ("hosts: 2\nlinks: {h7: {rate: 1 Mb/s}}", "no host 'h7': type one of h0, h1"),
        ("hosts: 2\nlink: {rate: fast}", "'fast' is not a number and one of kb/s, Mb/s, Gb/s"),
        ("hosts: 2\nlink: {delay: 3 Mb/s}", "'3 Mb/s' is not a number and one of us, ms, s"),
        ("hosts: 2\nlink: 1 Gb/s", "write {rate: 1 Gb/s, delay: 0.5 ms}"),
        ("hosts: 0", "from 1 to 250, not 0"),
        ("hosts: two", "from 1 to 250, not 'two'"),
        ("hosts: 2\nslow: {h1: 0.5}", "a factor above 1"),
        ("hosts: 2\nslow: h1", "write `slow: {h1: 2}`"),
        ("hosts: 2\nlatency: 3", "no key 'latency'"),
        ("- 1gbit", "describes no network"),
        ("{", "is not YAML"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(
    tmp_path: Path, words: str, said: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(words)
    with pytest.raises(NetworkError) as refused:
        network(str(file))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NetworkError, match="1gbit, .*two-level.*or a YAML file"):
        network("2gbit")
    assert all(network(name).name == name for name in NETWORKS)


def test_hosts_hang_on_their_racks_and_racks_on_the_core(two_racks: Network) -> None:
    laid = [(c.near.device, c.near.place, c.far.bridge) for c in cables.cables(two_racks)]
    assert laid == [
        ("eth0", "h0", "rack0"),
        ("eth0", "h1", "rack0"),
        ("eth0", "h2", "rack1"),
        ("eth0", "h3", "rack1"),
        ("up0", "switch", "core"),
        ("up1", "switch", "core"),
    ]
    assert cables.bridges(two_racks) == ["rack0", "rack1", "core"]
    assert [c.near.bridge for c in cables.cables(two_racks)][4:] == ["rack0", "rack1"]
    assert cables.bridges(NETWORKS["1gbit"]) == ["rack0"]


def test_both_ends_of_a_cable_have_its_rate_and_the_sending_one_its_delay() -> None:
    slow = cables.cables(Network("slow", 2, 1, Link(1e9, 2e-3)))[0]
    lines = [" ".join(command) for command in cables.queueing(slow, cables.NETEM)]
    assert lines == [
        "h0 tc qdisc add dev eth0 root handle 1: netem delay 2000us limit 1000",
        "h0 tc qdisc add dev eth0 parent 1:1 handle 10: tbf rate 1000000000bit "
        "burst 125000 latency 50000us",
        "switch tc qdisc add dev to-h0 root tbf rate 1000000000bit burst 125000 latency 50000us",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["h0", "switch"]
    by_relay = cables.queueing(slow, cables.RELAY)
    assert [c[6:8] for c in by_relay] == [["root", "tbf"], ["root", "tbf"]]
    assert cables.queueing(cables.cables(Network("free", 2))[0], cables.RELAY) == []


def test_only_cables_with_a_delay_go_through_the_relay(two_racks: Network) -> None:
    through = [c.near.place + c.near.device for c in cables.relayed(two_racks, cables.RELAY)]
    assert through == ["h0eth0", "h1eth0", "h2eth0", "switchup0", "switchup1"]
    assert cables.relayed(two_racks, cables.NETEM) == []


def test_a_cable_that_is_not_as_fast_as_wanted_is_told() -> None:
    """A busy machine cannot keep up; nobody shall take its figures for the network's."""
    good = Way("h0", "h1", Link(1e9), 0.117e9, 1e-4)
    bad = Way("h1", "h0", Link(1e9), 0.080e9, 1e-4)
    assert "NOT as wanted" not in table([good], cables.NETEM)
    assert "NOT as wanted: h1 -> h0." in table([good, bad], cables.NETEM)
    assert Way("h0", "h1", Link(), 1.0, 1.0).as_wanted


def test_launchers_fill_the_hosts() -> None:
    two = NETWORKS["two-level"]
    (host, words), *rest = launchers.commands(two, "mpirun", ["true"])
    assert (host, rest) == ("h0", [])
    assert words[:3] == ["mpirun", "-np", "4"]
    assert words[-3:] == ["--host", "h0:2,h1:2", "true"]
    (_, words), *_ = launchers.commands(two, "gloo", ["true"])
    assert "--gloo" in words and "h0:2,h1:2" in words
    every = launchers.commands(two, "torchrun", ["true"])
    assert [host for host, _ in every] == ["h0", "h1"]
    assert {"--nnodes=2", "--nproc-per-node=2"} < set(every[1][1])
    assert launchers.commands(two, "none", ["true"]) == [("h0", ["true"])]


def test_settings_of_a_person_stay_and_those_of_an_outer_launcher_go() -> None:
    had = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_MCA_pml": "ucx", "HOME": "/h", "PATH": "/bin"}
    env = launchers.environ(had, "/root", "/venv")
    assert "OMPI_COMM_WORLD_RANK" not in env
    assert (env["OMPI_MCA_pml"], env["HOME"], env["PATH"]) == ("ucx", "/h", "/venv:/bin")
    assert env["PYTHONPATH"] == "/root"
