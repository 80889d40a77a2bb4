"""A Slurm with one slurmd on each host, its controller on the first."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster import Cluster
from hosts import Hosts
from launching import until


class SlurmOfHosts(Cluster):
    """The daemons of a cluster whose nodes are hosts."""

    shared_host = ""
    groups = False  # another such cluster on this machine has nodes of the same names

    def __init__(self, folder: Path, hosts: Hosts, *names: str) -> None:
        """Make nothing yet.

        Args:
            folder: Of the daemons; all hosts see it.
            hosts: Who has them.
            names: Those that are nodes.
        """
        super().__init__(folder)
        self.nodes, self._hosts = list(names), hosts
        self.addresses = [hosts[name].address for name in names]
        self.control = f"{names[0]}({self.addresses[0]})"

    def _own_machine(self) -> None:
        self._inside = self._hosts[self.nodes[0]].on

    def _node(self, node: str) -> list[str]:
        return [*self._hosts[node].on, "slurmd", "-D", "-N", node]

    def srun(self, layout: Mapping[str, int]) -> list[str]:
        """The words that start so many ranks on each host, outside of any job."""
        file = self.folder / f"hosts-{'-'.join(f'{host}{n}' for host, n in layout.items())}"
        file.write_text("".join(f"{host}\n" * ranks for host, ranks in layout.items()))
        env = [f"SLURM_CONF={self.env['SLURM_CONF']}", f"SLURM_HOSTFILE={file}"]
        many = [f"--nodes={len(layout)}", f"--ntasks={sum(layout.values())}"]
        words = ["srun", "--mpi=pmix", "--distribution=arbitrary", *many]
        return [*self._inside, "env", *env, *words]

    def crash(self, node: str) -> None:
        """Cut the power of a node."""
        self._hosts.crash(node)

    def boot(self, node: str) -> None:
        """Let a node that crashed come back, and wait until Slurm has it again."""
        for folder in (self.folder / "spool" / node, self.folder / "tmp" / node):
            shutil.rmtree(folder)  # of its own disk
            folder.mkdir()
        self._daemons = [daemon for daemon in self._daemons if daemon.poll() is None]
        self._hosts.boot(node)
        self.start_node(node)
        until(self.all_idle, 60, "all nodes are idle again")
