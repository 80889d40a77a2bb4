"""Every launcher, with so many ranks on each host: `launched(hosts, "srun", {"a": 2, "b": 1})`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from hosts import Hosts
from launching import Job, Outcome, gloo, horovodrun, mpirun, started, torchrun

Layout = Mapping[str, int]  # host -> ranks there, in order
PATIENCE_S = 250  # a bound, not a speed
PORT = 29511  # of the first host, whose network nothing else is in


def commands(hosts: Hosts, launcher: str, layout: Layout, port: int = PORT) -> list[list[str]]:
    """Return what to start, each with its host in front: one command, or one a host."""
    n, first = sum(layout.values()), next(iter(layout))
    counts = ",".join(f"{host}:{ranks}" for host, ranks in layout.items())
    if launcher == "mpirun":
        words = [word for word in mpirun(n) if word != "--oversubscribe"]
        return [[*hosts[first].on, *words, "--host", counts]]
    if launcher in ("horovodrun", "gloo"):
        # It caches its looks at hosts in the home folder, for an hour.
        words = {"horovodrun": horovodrun, "gloo": gloo}[launcher](n)
        return [[*hosts[first].on, *words, "--disable-cache", "-H", counts]]
    if launcher == "srun":
        return [hosts.srun(layout)]
    meeting = f"--rdzv-endpoint={hosts[first].address}:{port}"
    words = ["--rdzv-backend=c10d", meeting, f"--rdzv-id={port}", f"--nnodes={len(layout)}"]
    return [[*hosts[host].on, *_torchrun(k, *words)] for host, k in layout.items()]


@contextmanager
def bridged(hosts: Hosts, *names: str) -> Iterator[None]:
    """Give these hosts a bridge each, all of one address."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(hosts[name].bridge())
        yield


def _torchrun(ranks: int, *words: str) -> list[str]:
    program, _, *rest = torchrun(ranks)  # without --standalone
    return [program, *words, *rest]


@contextmanager
def launched(
    hosts: Hosts, launcher: str, layout: Layout, arguments: Sequence[str], port: int = PORT
) -> Iterator[list[Job]]:
    """Start a Python command under a launcher; killed when the block ends."""
    with ExitStack() as stack:
        begun = commands(hosts, launcher, layout, port)
        yield [stack.enter_context(started(words, arguments)) for words in begun]


def run_on(hosts: Hosts, launcher: str, layout: Layout, arguments: Sequence[str]) -> list[Outcome]:
    """Run a Python command under a launcher to its end."""
    with launched(hosts, launcher, layout, arguments) as jobs:
        return [job.wait(PATIENCE_S) for job in jobs]
