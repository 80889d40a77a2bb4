"""A real network of two hosts: as fast as described, whoever launches, and gone when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from launching import ROOT, until

from benchmarks.netlab.cables import burst_bytes
from benchmarks.netlab.hosts import PREFIX
from benchmarks.netlab.lab import Lab, LabError
from benchmarks.netlab.missing import missing
from benchmarks.netlab.network import NETWORKS, Link, Network
from hpc_localsgd.cost.network_file import network

pytestmark = pytest.mark.launched
PAYLOAD_BYTES = 4_000_000
SLOW = Network("slow", 2, 1, Link(200e6, 5e-3), links={"h1": Link(200e6)}, slow={"h1": 4.0})
# Every rank prints the host it is on, and how long the average of a vector took there.
AVERAGE = f"""
import json, os, socket, time, torch
from hpc_localsgd.worlds.mpi import Mpi
world, x = Mpi(), torch.ones(1, {PAYLOAD_BYTES // 4})
world.mean(x)
began = time.perf_counter()
world.mean(x)
line = json.dumps([socket.gethostname(), time.perf_counter() - began])
os.write(1, (line + chr(10)).encode())
world.close()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    network = Network("for tests", 2, 1, Link(1e9))
    if why := missing(network):
        pytest.skip(why)
    with Lab(network) as made:
        yield made


def test_an_average_takes_what_the_cable_allows(lab: Lab) -> None:
    """Not less than the wire's own time, which no luck shortens, nor many times as much."""
    said = lab.run(["-c", AVERAGE], timeout_s=100).stdout
    rows = [json.loads(line) for line in said.splitlines() if line.startswith('["h')]
    assert sorted(host for host, _ in rows) == ["h0", "h1"]
    # Each sends the whole vector once, but for what a cable lets through at once after a pause.
    wire_s = (PAYLOAD_BYTES - 2 * burst_bytes(1e9)) / lab.network.link.bytes_per_s
    slowest = max(seconds for _, seconds in rows)
    assert 0.9 * wire_s < slowest < 40 * wire_s


def test_collectives_measure_a_network_for_plans_and_simulated_runs(
    lab: Lab, tmp_path: Path
) -> None:
    """Every kind of exchange that a world has, with alphas and betas that are no nonsense."""
    file = tmp_path / "measured.yaml"
    command = ["-m", "benchmarks.collectives", "--world", "mpi", "--out", str(file), "--fastest"]
    lab.run(
        [*command, "--sizes", "400", "2000000", "--check", "500000", "--seconds", "0.1"],
        timeout_s=150,
    )
    said, found = yaml.safe_load(file.read_text()), network(str(file))
    assert set(found.costs) == {"mean", "compressed mean", "mix", "gather"}
    cells = {(cell["exchange"], cell["size_bytes"]): cell for cell in said["cells"]}
    assert ("mean", 500_000) in cells and ("mix exponential", 400) in cells
    # Two sizes are fitted exactly, the short one being bound by its latency; and no cable is
    # faster than it was made.
    longest = cells["mean", 2_000_000]
    assert found.mean_s(2, 2_000_000) == pytest.approx(longest["seconds"], rel=1e-6)
    assert longest["wire_bytes"] == 2_000_000
    wire_s = (2_000_000 - 2 * burst_bytes(1e9)) / lab.network.link.bytes_per_s
    assert longest["seconds"] > 0.9 * wire_s
    assert 0 < cells["compressed mean", 2_000_000]["own_s"] < longest["seconds"]


def test_torchrun_starts_its_ranks_on_every_host(lab: Lab) -> None:
    """The test above has mpirun; horovodrun is mpirun there, with other words."""
    where = "echo at $RANK of $WORLD_SIZE on $(hostname)"
    said = lab.run(["sh", "-c", where], "torchrun", timeout_s=100).stdout
    assert sorted(line[-2:] for line in said.splitlines() if line.startswith("at ")) == ["h0", "h1"]
    assert {"at 0 of 2", "at 1 of 2"} == {line[:9] for line in said.splitlines() if "at " in line}


def test_a_command_that_fails_or_stays_leaves_nothing_on_the_hosts(lab: Lab) -> None:
    with pytest.raises(LabError, match="exit status 7"):
        lab.run(["-c", "import sys; sys.exit(7)"], "none", timeout_s=60)
    with pytest.raises(LabError, match="still running after 1 s"):
        lab.run(["sh", "-c", "sleep 300 & sleep 300"], "none", timeout_s=1)
    assert lab.run(["sh", "-c", "ps -e -o args= | grep -c '[s]leep 300'"], check=False,
                   launcher="none", timeout_s=60).stdout == "0\n"  # fmt: skip


def test_rates_delays_and_slow_hosts_are_what_was_asked_for() -> None:
    """From h0 there is a delay, from h1 none; and h1 computes at a quarter of its speed."""
    if why := missing(SLOW):
        pytest.skip(why)
    with Lab(SLOW) as lab:
        # As fast as it is where the processors are busy just now: the best of a few.
        there = max((lab.measured()[0] for _ in range(3)), key=lambda way: way.bytes_per_s)
        assert 0.5 * 200e6 < 8 * there.bytes_per_s < 1.05 * 200e6
        assert there.trip_s > 5e-3
        spin = (
            "import time; began = time.perf_counter()\n"
            "while time.process_time() < 0.3: pass\n"
            "print(time.process_time() / (time.perf_counter() - began))"
        )
        command = [*lab.on("h1"), "sh", "-c", f"{sys.executable} -c '{spin}'; true"]
        share = float(subprocess.run(command, capture_output=True, check=True).stdout)
        assert share < 0.5


def test_a_lab_that_is_killed_takes_all_of_it_along(tmp_path: Path) -> None:
    """And the folder it leaves is removed by the next one."""
    if why := missing(NETWORKS["1gbit"]):
        pytest.skip(why)
    pids = tmp_path / "pids"
    sleeps = f"echo $$ >> {pids}; exec sleep 300"
    command = [sys.executable, "-m", "benchmarks.netlab", "1gbit", "--", "sh", "-c", sleeps]
    mark = {**os.environ, "NETLAB_TEST": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=mark, stderr=subprocess.DEVNULL) as process:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 60, "two ranks")
        process.send_signal(signal.SIGKILL)
    until(lambda: not marked(str(tmp_path)), 20, "everything of it gone")
    cleaned = [sys.executable, "-m", "benchmarks.netlab", "--clean"]
    until(
        lambda: PREFIX in subprocess.run(cleaned, cwd=ROOT, capture_output=True, text=True).stdout,
        20,
        "its folder removed",
    )


def marked(mark: str) -> list[int]:
    """Processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"NETLAB_TEST={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
