"""What SimGrid is given, and that it finds what the cost model says, where it is installed."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.cost import simgrid
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.directed import exponential
from hpc_localsgd.topology.static import ring

SIZE = 8_000_000
NETWORKS = (
    "50us,117MB/s",
    "50us,117MB/s,core=1GB/s",
    "50us,117MB/s,trunk=117MB/s/4",
    "50us,117MB/s,trunk=200MB/s/8,core=1GB/s",
)
installed = pytest.mark.skipif(
    shutil.which("smpirun") is None, reason=f"SimGrid is not here: {simgrid.INSTALL}"
)


@installed
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("K", [4, 16, 64])
def test_simgrid_finds_the_seconds_of_the_model(K: int, name: str, tmp_path: Path) -> None:
    """Links shared from moment to moment, where the model counts messages step by step."""
    one, halving = network(name), network(f"{name},allreduce=halving")
    whole = simgrid.Collective("mean", K, SIZE, K)
    cases = [
        (one, whole, one.mean_s(K, SIZE)),
        (halving, whole, halving.mean_s(K, SIZE)),
        (one, simgrid.Collective("mean", K, SIZE, 4), one.mean_s(4, SIZE, workers=K)),
        (one, simgrid.Collective("gather", K, SIZE // 10), one.gather_s(K, SIZE // 10)),
    ]
    for topology in (ring(), exponential()):
        W = topology.matrix(K)
        cases.append((one, simgrid.mix(W, SIZE), one.mix_s(W, SIZE)))
    for i, (on, exchange, model_s) in enumerate(cases):
        assert simgrid.seconds(on, exchange, tmp_path / str(i)) == pytest.approx(model_s, rel=2e-3)


@installed
def test_what_simgrid_refuses_is_said_in_a_sentence(tmp_path: Path) -> None:
    broken = simgrid.Collective("mix", 4, SIZE, pairs=((0, 99),))
    with pytest.raises(ConfigurationError, match="SimGrid ended with status"):
        simgrid.seconds(network("1GbE"), broken, tmp_path)


def test_without_simgrid_it_is_said_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="not installed: apt-get install libsimgrid-dev"):
        simgrid.seconds(network("1GbE"), simgrid.Collective("mean", 4, 8, 4), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_platform_has_every_host_once_and_a_route_between_racks() -> None:
    made = ET.fromstring(simgrid.platform(network("1GbE,trunk=1GB/s/4,core=2GB/s"), 10))
    spans = [c.get("radical", "") for c in made.iter("cluster")]
    assert spans == ["0-3", "4-7", "8-9"]
    routes = {
        (r.get("src"), r.get("dst")): [x.get("id") for x in r] for r in made.iter("zoneRoute")
    }
    assert len(routes) == 6 and routes["r0", "r2"] == ["t0", "core", "t2"]
    for cluster in made.iter("cluster"):  # up one link and down another: the latency of a message
        assert float(cluster.get("lat", "").removesuffix("s")) == pytest.approx(25e-6)
    flat = ET.fromstring(simgrid.platform(network("1GbE,core=2GB/s"), 10))
    (only,) = flat.iter("cluster")
    assert (only.get("radical"), only.get("bb_bw")) == ("0-9", "2000000000.0Bps")


def test_a_trace_has_both_ends_of_every_message() -> None:
    W = exponential().matrix(6)
    lines = [line.split() for line in simgrid.trace(simgrid.mix(W, 80)).splitlines()]
    sent = {(x[0], x[2]) for x in lines if x[1] == "isend"}
    heard = {(x[2], x[0]) for x in lines if x[1] == "irecv"}
    off = np.argwhere(W - np.diag(np.diag(W)))
    assert sent == heard == {(str(j), str(k)) for k, j in off}
    blocks = simgrid.trace(simgrid.Collective("mean", 6, 90, 3)).splitlines()
    pairs = [line.split() for line in blocks if " isend " in line]
    assert len(pairs) == 6 * 4 and {x[4] for x in pairs} == {"30"}
    assert all(int(x[0]) // 3 == int(x[2]) // 3 for x in pairs)


def test_a_trace_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="more than it can hold"):
        simgrid.trace(simgrid.Collective("mean", 65_536, 8, 32_768))
