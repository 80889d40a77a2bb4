"""Names and interfaces, invented: what ends Gloo or Open MPI is named with the launcher's cure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from hpc_localsgd.commands.assembly.worlds import join_world
from hpc_localsgd.environment import launch_checks, meeting, reach
from hpc_localsgd.environment.facts import Facts
from hpc_localsgd.environment.launch import Launch, detect
from hpc_localsgd.environment.reach import HostNetwork, Interface, judge
from hpc_localsgd.types import ConfigurationError

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
        (BRIDGED, TORCHRUN, 2, "ok", ""),
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
    found = reach.network_here()
    assert Interface("lo", "127.0.0.1") in found.interfaces and found.host
    assert reach.network_here(lambda host: ("10.9.9.9",), lambda: (ETH,)).addresses == ("10.9.9.9",)


def test_a_bridge_is_known_in_a_network_that_sys_does_not_show() -> None:
    begin = "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0"
    show = "from hpc_localsgd.environment.reach import network_here as n; print(n().interfaces)"
    alone = ["unshare", "--net", "--map-root-user", "sh", "-c"]
    if shutil.which("ip") is None or subprocess.run([*alone, begin], check=False).returncode:
        pytest.skip("no network of one's own here: it needs iproute2 and a kernel that lets it be")
    words = [*alone, f'{begin} && exec "$0" -c "$1"', sys.executable, show]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "name='docker0', address='172.17.0.1', bridge=True" in said


def test_a_run_is_refused_before_anything_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in on(2, TORCHRUN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reach, "network_here", lambda: DEBIAN)
    monkeypatch.setitem(sys.modules, "torch.distributed", None)  # it is not got to
    with pytest.raises(
        ConfigurationError, match=r"calls itself 127\.0\.1\.1.*GLOO_SOCKET_IFNAME=ib0"
    ):
        join_world(detect(on(2, TORCHRUN)))


def test_what_may_fail_is_said_once_a_host(capsys: pytest.CaptureFixture[str]) -> None:
    environ = on(2, MPIRUN)
    for local in (0, 1):
        reach.check_before(environ, replace(detect(environ), local_rank=local), "horovod", BRIDGED)
    said = capsys.readouterr().err
    assert said.count("docker0 172.17.0.1") == 1 and "--mca btl_tcp_if_include ib0" in said


def test_the_doctor_says_so_and_does_not_connect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reach, "network_here", lambda: DEBIAN)
    monkeypatch.setattr(meeting, "_gather", lambda facts: pytest.fail("it connects"))
    everyone, rank = meeting.meet(on(2, TORCHRUN))
    assert len(everyone) == 1 and rank == 0
    assert "problem: n7 calls itself 127.0.1.1" in capsys.readouterr().err
    assert "repair the network first" in launch_checks.ranks(everyone).fix


def test_a_lost_name_on_several_hosts_is_not_given_the_loopback(healthy: Facts) -> None:
    lost = replace(healthy, host_resolves=False, launch=Launch("mpirun", 0, 2, 0, "SIZE"))
    both = [lost, replace(lost, host="node2")]
    assert "127.0.0.1" in launch_checks.hosts([lost]).fix
    assert "127.0.0.1" not in launch_checks.hosts(both).fix
