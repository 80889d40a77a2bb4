"""A Slurm of one's own: munged, slurmctld and several slurmd on this machine, in a private folder.

By default two virtual nodes share the host. Each has its own hostname and /dev/shm, and both live
in namespaces where network and process numbers are their own, and which end with this process.
Everything carries the path of its configuration in its environment: that is how it is found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from launching import ROOT, until

SYSTEM_PROGRAMS = "/usr/sbin:/sbin"
# Nor the mark of the test that happens to be the first: the daemons live on.
OF_LAUNCHERS = ("HPC_LOCALSGD_TEST", "SLURM", "SBATCH", "SRUN", "PMI", "OMPI_", "PRTE_", "HOROVOD_")
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    # Two nodes believe to have two cores each: a rank that waits sleeps.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
    "OMPI_MCA_threads_pthreads_nanosleep_time": "500000",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "HOROVOD_CYCLE_TIME": "1",
}
FREEZER = Path("/sys/fs/cgroup/freezer")
_DEATH_SIGNAL = 1  # of prctl

CONF = """\
ClusterName=test
SlurmctldHost={control}
SlurmctldPort={port[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={d}/munge/socket
CredType=cred/munge
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool/%n
TmpFS={d}/tmp/%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd-%n.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd-%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=60000
OverTimeLimit=0
SlurmdTimeout=10
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
{node_lines}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE
"""
NODE = "NodeName={} NodeHostname={} NodeAddr={} Port={} CPUs=16"
ADDRESSES = ("10.255.0.1", "10.255.0.2")
HOLDER = f"""\
ip link set lo up
ip link add v0 type veth peer name v1
ip address add {ADDRESSES[0]}/24 dev v0
ip address add {ADDRESSES[1]}/24 dev v0
ip link set v0 up
ip link set v1 up
echo ready
while :; do sleep 1000 & wait; done
"""
CGROUP_CONF = "CgroupAutomount=no\nCgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n"


def search_path() -> str:
    """Where programs are looked for: beside this Python first."""
    beside = str(Path(sys.executable).parent)
    return os.pathsep.join([beside, os.environ.get("PATH", ""), SYSTEM_PROGRAMS])


class Daemons:
    """The daemons of a Slurm, and commands among them."""

    control, shared_host = "localhost(127.0.0.1)", "localhost"
    groups = True  # of control, where there are some: their names are those of the nodes

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses: Sequence[str] = ADDRESSES
        self.nodes = [f"n{os.getpid()}{letter}" for letter in "ab"]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._inside: list[str] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(OF_LAUNCHERS)}
        self.env |= SETTINGS
        self.env |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}

    def start(self) -> None:
        """Start them all, and wait until both nodes are idle."""
        self._own_machine()
        self._write_files()
        d = self.folder
        files = [f"--{x}-file={d}/munge/{x}" for x in ("key", "pid", "log", "seed")]
        self._daemon("munged", "-F", "--force", *files, f"--socket={d}/munge/socket")
        until((d / "munge" / "socket").exists, 10, "munged listens")
        self._daemon("slurmctld", "-D", "-i")
        for node in self.nodes:
            self.start_node(node)
        until(self.all_idle, 30, "all nodes are idle")

    def start_node(self, node: str) -> None:
        """Start its slurmd."""
        self._daemon(*self._node(node))

    def stop(self) -> None:
        """End every process of the cluster by its number, and remove what it left elsewhere."""
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        until(lambda: not self._killed_strays(), 20, "the cluster is gone")
        if self.groups:
            until(self._no_groups, 20, "its control groups are gone")

    def _no_groups(self) -> bool:
        groups = [g for n in self.nodes for g in FREEZER.glob(f"slurm_{n}*")]
        inner = [folder for group in groups for folder in group.rglob("*/")]
        for folder in sorted([*groups, *inner], reverse=True):
            with suppress(OSError):  # its last process is just ending
                folder.rmdir()
        return not groups

    def strays(self) -> set[int]:
        """Living processes that carry the path of this cluster's configuration."""
        mark = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        return {pid for pid in pids if mark in variables_of(pid)}

    def _killed_strays(self) -> set[int]:
        strays = self.strays()
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return strays

    def _write_files(self) -> None:
        d = self.folder
        folders = [f"{x}/{node}" for x in ("spool", "tmp") for node in self.nodes]
        for name in ("munge", "state", *folders):
            (d / name).mkdir(parents=True, mode=0o700 if name == "munge" else 0o755)
        (d / "munge" / "key").write_bytes(os.urandom(1024))
        (d / "munge" / "key").chmod(0o400)
        cgroup = self.groups and FREEZER.is_dir() and os.access(FREEZER, os.W_OK)
        ports = _free_ports(1 + len(self.nodes))
        pairs = list(zip(self.nodes, self.addresses, strict=True))
        lines = [
            NODE.format(node, self.shared_host or node, address, port)
            for (node, address), port in zip(pairs, ports[1:], strict=True)
        ]
        (d / "slurm.conf").write_text(
            CONF.format(
                d=d,
                control=self.control,
                port=ports,
                node_lines="\n".join(lines),
                proctrack="cgroup" if cgroup else "linuxproc",
            )
        )
        (d / "cgroup.conf").write_text(CGROUP_CONF)
        names = "".join(f"{address} {node}\n" for node, address in pairs)
        (d / "hosts").write_text(f"127.0.0.1 localhost\n{names}")

    def _own_machine(self) -> None:
        """Namespaces for the network, processes and mounts, which live as long as who holds them.

        So nothing outlives this process, however it ends. The addresses are not loopback ones,
        which the daemons of mpirun do not accept.
        """
        spaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        holder = self._daemon("unshare", *spaces, "sh", "-ec", HOLDER, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip(f"no namespaces to be had here: {self._log()}")
        inner = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        spaces = [f"--target={inner}", "--net", "--pid", "--mount", f"--wd={ROOT}"]
        self._inside = ["nsenter", *spaces, "--"]

    def _node(self, node: str) -> list[str]:
        script = (
            f"hostname {node}; mount --bind {self.folder}/hosts /etc/hosts; "
            f"mount -t tmpfs tmpfs /dev/shm; exec slurmd -D -N {node}"
        )
        return ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-ec", script]

    def _daemon(self, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / "daemons.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*self._inside, *command],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        self._daemons.append(daemon)
        return daemon

    def _log(self) -> str:
        return (self.folder / "daemons.log").read_text()[-3000:]

    def all_idle(self) -> bool:
        """Whether all nodes wait for work."""
        for daemon in self._daemons:
            assert daemon.poll() is None, self._log()
        states = self.command("sinfo", "-h", "-N", "-o", "%T", check=False).split()
        return states == ["idle"] * len(self.nodes)

    def command(self, *words: str, check: bool = True, **variables: str) -> str:
        """What a command of Slurm prints; fails the test when it fails."""
        done = subprocess.run(
            [*self._inside, *words],
            env={**self.env, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


def variables_of(pid: int) -> set[bytes]:
    """The variables of a process; none if it has ended."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def title_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _free_ports(n: int) -> Sequence[int]:
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
