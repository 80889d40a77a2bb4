"""A host whose own name is 127.0.1.1 in its /etc/hosts ends torch.distributed in a sentence."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from hosts import Hosts
from launching import TRAIN, started, torchrun

PORT = "29511"  # of host a, whose network nothing else is in


def test_a_name_that_no_other_host_can_reach_is_said_before_gloo_begins(
    hosts: Hosts, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        jobs = []
        for rank, name in enumerate("ab"):
            stack.enter_context(hosts[name].names(f"127.0.1.1 {name}"))
            job = started(over_torch(hosts, name, rank), [*TRAIN, f"--out={tmp_path / 'run'}"])
            jobs.append(stack.enter_context(job))
        ended = [job.wait() for job in jobs]
    assert all(outcome.status for outcome in ended)
    said = ended[0].text
    assert "a calls itself 127.0.1.1, where no other host can connect" in said
    assert "export GLOO_SOCKET_IFNAME=eth0 on every host; or in /etc/hosts of a write: " in said
    assert "10.91.0.1 a" in said and not (tmp_path / "run").exists()


def over_torch(hosts: Hosts, name: str, rank: int) -> list[str]:
    """`torchrun` of one of the two hosts, with one process there."""
    where = ["--nnodes=2", f"--node-rank={rank}", f"--master-addr={hosts['a'].address}"]
    asked = [word for word in torchrun(1) if word != "--standalone"]
    return [*hosts[name].on, asked[0], *where, f"--master-port={PORT}", *asked[1:]]
