"""Names and interfaces, invented: what ends Gloo or Open MPI is named with the launcher's cure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_localsgd.commands.assembly.worlds import join_world
from hpc_localsgd.engine import host_network, reachability
from hpc_localsgd.engine.finding import OK, Finding
from hpc_localsgd.engine.host_network import HostNetwork, Interface
from hpc_localsgd.engine.launch import Launch, detect
from hpc_localsgd.engine.reachability import EXCLUDE, judge
from hpc_localsgd.environment import gather_facts, launch_checks
from hpc_localsgd.environment.facts import Facts
from hpc_localsgd.errors import ConfigurationError

LO, ETH = Interface("lo", "127.0.0.1"), Interface("ib0", "10.1.0.7")
DOCKER = Interface("docker0", "172.17.0.1", bridge=True)
FINE = HostNetwork("n7", ("10.1.0.7",), (LO, ETH))
DEBIAN = HostNetwork("n7", ("127.0.1.1",), (LO, DOCKER, ETH))
NAMELESS = HostNetwork("n7", (), (LO, ETH))
TWICE = HostNetwork("n7", ("127.0.1.1", "10.1.0.7"), (LO, ETH))  # two lines of /etc/hosts
BOTH = HostNetwork("n7", ("10.1.0.7", "127.0.1.1"), (LO, ETH))
BRIDGED = HostNetwork("n7", ("10.1.0.7",), (LO, DOCKER, ETH))

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
GLOO = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "PMIX_RANK": "0"}


def on(hosts: int, environ: dict[str, str]) -> dict[str, str]:
    """The variables of two ranks on one host, or on two."""
    local = str(2 // hosts)
    names = {"WORLD_SIZE": "LOCAL_WORLD_SIZE", "HOROVOD_SIZE": "HOROVOD_LOCAL_SIZE"}
    names["OMPI_COMM_WORLD_SIZE"] = "OMPI_COMM_WORLD_LOCAL_SIZE"
    more = {name: local for size, name in names.items() if size in environ}
    return {**environ, **(more or {"SLURM_STEP_NUM_NODES": str(hosts)})}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for interfaces")
def test_a_host_without_its_loopback_is_named() -> None:
    well, down = Finding(OK, "network", "fine"), replace(FINE, interfaces=(ETH,))
    assert reachability.loopback(FINE, well) is well
    found = reachability.loopback(down, well)
    assert (found.level, found.fix) == ("warning", "as root: ip link set lo up")
    worse = Finding("problem", "network", "no name")
    assert reachability.loopback(down, worse) is worse


@pytest.mark.parametrize(
    ("network", "environ", "hosts", "level", "said"),
    [
        (DEBIAN, TORCHRUN, 2, "problem", "GLOO_SOCKET_IFNAME=ib0 on every host"),
        (DEBIAN, TORCHRUN, 2, "problem", "/etc/hosts of n7 write: 10.1.0.7 n7"),
        (DEBIAN, GLOO, 2, "problem", "/etc/hosts of n7 write: 10.1.0.7 n7; or leave out --gloo"),
        (DEBIAN, TORCHRUN, 1, "ok", ""),
        (DEBIAN, GLOO, 1, "ok", ""),
        (DEBIAN, {**TORCHRUN, "GLOO_SOCKET_IFNAME": "ib0"}, 2, "ok", ""),
        (DEBIAN, {**GLOO, "HOROVOD_GLOO_IFACE": "ib0"}, 2, "problem", "127.0.1.1"),  # no cure
        (NAMELESS, GLOO, 1, "problem", "add a line to /etc/hosts: 127.0.0.1 n7"),
        (NAMELESS, GLOO, 2, "problem", "add a line to /etc/hosts: 10.1.0.7 n7"),
        (NAMELESS, TORCHRUN, 1, "ok", ""),
        (NAMELESS, TORCHRUN, 2, "problem", "10.1.0.7 n7"),
        (NAMELESS, MPIRUN, 2, "ok", ""),
        (BOTH, TORCHRUN, 2, "ok", ""),
        (TWICE, TORCHRUN, 2, "problem", "calls itself 127.0.1.1"),
        (BRIDGED, MPIRUN, 2, "warning", "export OMPI_MCA_btl_tcp_if_include=ib0"),
        (BRIDGED, SRUN, 2, "warning", "docker0 172.17.0.1"),
        (BRIDGED, MPIRUN, 1, "ok", ""),
        (BRIDGED, SRUN, 1, "ok", ""),
        (BRIDGED, {**MPIRUN, "OMPI_MCA_btl_tcp_if_include": "ib0"}, 2, "ok", ""),
        (BRIDGED, {**MPIRUN, "OMPI_MCA_btl_tcp_if_exclude": "docker0"}, 2, "ok", ""),
        (BRIDGED, {**MPIRUN, "OMPI_MCA_btl": "self,sm,tcp"}, 2, "warning", "docker0 172.17.0.1"),
        (replace(BRIDGED, chosen=True), SRUN, 2, "ok", ""),
        (BRIDGED, TORCHRUN, 2, "ok", ""),
        (BRIDGED, GLOO, 2, "ok", ""),
        (FINE, MPIRUN, 2, "ok", "n7 is 10.1.0.7; ib0 10.1.0.7"),
        (BRIDGED, {}, 2, "ok", ""),
    ],
)
def test_names_and_interfaces(
    network: HostNetwork, environ: dict[str, str], hosts: int, level: str, said: str
) -> None:
    environ = on(hosts, environ)
    finding = judge(network, detect(environ), environ)
    assert finding.level == level
    assert said in f"{finding.text} {finding.fix}"
    assert level == "ok" or network.host in finding.text


def test_the_torch_world_is_asked_about_under_any_launcher() -> None:
    environ = on(2, MPIRUN)
    assert judge(DEBIAN, detect(environ), environ, "torch").level == "problem"
    assert judge(DEBIAN, detect(environ), environ, "mpi").level == "warning"  # its bridge


def test_this_host_has_a_loopback_and_a_name() -> None:
    found = reachability.network_here()
    assert Interface("lo", "127.0.0.1") in found.interfaces and found.host
    assert reachability.network_here(lambda host: ("10.9.9.9",), lambda: (ETH,)).addresses == (
        "10.9.9.9",
    )


NETWORK = """
mount -t sysfs sysfs /sys; ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0
ip link add guest type veth peer name inside; ip link set guest master docker0
ip link add br0 type bridge; ip addr add 10.1.0.7/24 dev br0
ip link add cable type ifb; ip link set cable master br0
"""


@pytest.mark.parametrize("sys_shows_it", [True, False])
def test_a_bridge_for_guests_is_told_from_one_with_a_cable(sys_shows_it: bool) -> None:
    begin = NETWORK if sys_shows_it else NETWORK.replace("mount -t sysfs sysfs /sys;", "")
    show = "from hpc_localsgd.engine.host_network import network_here as n; print(*n().bridges)"
    alone = ["unshare", "--net", "--mount", "--map-root-user", "sh", "-ec"]
    if shutil.which("ip") is None or subprocess.run([*alone, begin], check=False).returncode:
        pytest.skip("no network of one's own here: it needs iproute2 and a kernel that lets it be")
    words = [*alone, f'{begin} exec "$0" -c "$1"', sys.executable, show]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "name='docker0', address='172.17.0.1', bridge=True" in said
    assert ("br0" in said) != sys_shows_it  # what hangs on it is seen there alone


def test_interfaces_that_a_file_of_open_mpi_chooses_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if not (Path(sys.executable).parent / "ompi_info").exists():
        pytest.skip("no Open MPI in this environment: `make env`")
    assert not host_network.chosen_in_a_file()
    (tmp_path / ".openmpi").mkdir()
    (tmp_path / ".openmpi" / "mca-params.conf").write_text("btl_tcp_if_include = ib0\n")
    assert host_network.chosen_in_a_file()


def test_a_run_is_refused_before_anything_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in on(2, TORCHRUN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reachability, "network_here", lambda: DEBIAN)
    monkeypatch.setitem(sys.modules, "torch.distributed", None)  # it is not got to
    with pytest.raises(
        ConfigurationError, match=r"calls itself 127\.0\.1\.1.*GLOO_SOCKET_IFNAME=ib0"
    ):
        join_world(detect(on(2, TORCHRUN)))


def test_open_mpi_leaves_out_bridges_and_rank_0_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        environ = on(2, MPIRUN)
        launch = replace(detect(environ), rank=rank, local_rank=0)
        reachability.check_before(environ, launch, "horovod", BRIDGED)
        assert environ[EXCLUDE] == "127.0.0.1/8,sppp,docker0"
    assert capsys.readouterr().err.count("to leave out docker0 172.17.0.1, a bridge of n7's") == 1


@pytest.mark.parametrize(
    ("network", "environ", "hosts"),
    [
        (HostNetwork("n7", ("172.17.0.1",), (LO, DOCKER)), MPIRUN, 2),  # all it has
        (BRIDGED, MPIRUN, 1),
        (BRIDGED, GLOO, 2),
        (replace(BRIDGED, chosen=True), MPIRUN, 2),
        (BRIDGED, {**MPIRUN, "OMPI_MCA_btl_tcp_if_include": "ib0"}, 2),
        (FINE, MPIRUN, 2),
    ],
)
def test_open_mpi_is_told_nothing_else(
    network: HostNetwork, environ: dict[str, str], hosts: int
) -> None:
    before = on(hosts, environ)
    after = dict(before)
    reachability.check_before(after, detect(before), "horovod", network)
    assert after == before


def test_the_doctor_connects_without_bridges_and_warns_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reachability, "network_here", lambda: BRIDGED)
    monkeypatch.setattr(gather_facts, "network_here", lambda: BRIDGED)
    environ, met = on(2, MPIRUN), list[str]()

    def gather(facts: dict[str, object], errors: object) -> list[dict[str, object]]:
        met.append(environ[EXCLUDE])
        return [facts]

    monkeypatch.setattr(gather_facts, "_gather", lambda facts: gather)
    ((facts,), _) = gather_facts.gather_facts(environ)
    assert met == ["127.0.0.1/8,sppp,docker0"]
    assert isinstance(facts.network, Finding) and facts.network.level != OK


def test_the_doctor_says_so_and_does_not_connect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reachability, "network_here", lambda: DEBIAN)
    monkeypatch.setattr(gather_facts, "_gather", lambda facts: pytest.fail("it connects"))
    everyone, rank = gather_facts.gather_facts(on(2, TORCHRUN))
    assert len(everyone) == 1 and rank == 0
    assert "problem: n7 calls itself 127.0.1.1" in capsys.readouterr().err
    assert "repair the network first" in launch_checks.ranks(everyone).fix


def test_a_lost_name_on_several_hosts_is_not_given_the_loopback(healthy: Facts) -> None:
    lost = replace(healthy, host_resolves=False, launch=Launch("mpirun", 0, 2, 0, "SIZE"))
    both = [lost, replace(lost, host="node2")]
    assert "127.0.0.1" in launch_checks.hosts([lost]).fix
    assert "127.0.0.1" not in launch_checks.hosts(both).fix
