"""Which hosts a job was given, and which of them have no rank. No communication.

Asked in this order: the launcher's own command line (`--host`, `--hostfile`), found among the
processes above this one; the resource manager's variables.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prte", "horovodrun")
HOSTS = ("--host", "-host", "-H", "--hosts")
FILES = ("--hostfile", "-hostfile", "--machinefile", "-machinefile", "--default-hostfile")
SHOWN = 8  # hosts in a message

Read = Callable[[str], str]


def allocated_hosts(
    environ: Mapping[str, str], commands: Sequence[Sequence[str]], read: Read
) -> tuple[str, ...]:
    """Return the hosts of the job in order, each once; none if nothing names them.

    Args:
        environ: Variables of a rank.
        commands: The words of the processes above it, the nearest first.
        read: Gives the text of a file; may raise OSError.
    """
    for words in commands:
        if not words or Path(words[0]).name not in LAUNCHERS:
            continue
        # horovodrun names this host where it is given none, also within a larger allocation.
        if set(named := _named(words, read)) - {"localhost", "127.0.0.1"}:
            return named
    step = environ.get("SLURM_STEP_NODELIST") if _by_srun(environ) else None
    if given := step or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST"):
        return tuple(expanded(given))
    for name in ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE"):
        if name in environ and (found := _of_file(environ[name], read)):
            return found
    return ()


def _by_srun(environ: Mapping[str, str]) -> bool:
    """Return whether a Slurm step has our ranks, and not the daemons of mpirun or horovodrun."""
    return not any(name.startswith(("OMPI_COMM_WORLD", "HOROVOD_RANK")) for name in environ)


def _named(words: Sequence[str], read: Read) -> tuple[str, ...]:
    """Return the hosts on a launcher's command line."""
    found: list[str] = []
    split = [part for w in words for part in (w.split("=", 1) if w.startswith("--") else (w,))]
    for option, value in zip(split, split[1:], strict=False):
        if option in HOSTS:
            found += [_host(item) for item in value.split(",")]
        elif option in FILES:
            found += _of_file(value, read)
    return tuple(dict.fromkeys(found))


def _host(item: str) -> str:
    """Return the host `a` of `a:4`; an IPv6 address stays whole."""
    return item.rpartition(":")[0] if re.fullmatch(r"[^:]+:\d+", item) else item


def _of_file(path: str, read: Read) -> tuple[str, ...]:
    try:
        lines = read(path).splitlines()
    except OSError:
        return ()
    words = (line.split("#")[0].split() for line in lines)
    return tuple(dict.fromkeys(_host(line[0]) for line in words if line))


def expanded(names: str) -> list[str]:
    """Return the hosts of Slurm's short form.

    >>> expanded("login,n[08-10,12]")
    ['login', 'n08', 'n09', 'n10', 'n12']
    """
    found: list[str] = []
    for item in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", names):
        match = re.match(r"(.*?)\[([^\]]*)\](.*)", item)
        if match is None:
            found.append(item)
            continue
        head, ranges, tail = match.groups()
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            found += expanded(",".join(f"{head}{n:0{len(first)}d}{tail}" for n in numbers))
    return found


def idle_hosts(allocated: Sequence[str], taking_part: Sequence[str]) -> tuple[str, ...]:
    """Return the allocated hosts without a rank, even if they go by other names.

    An address, or an alias, cannot be told from the host it means: where it is unclear which of
    them is idle, as many are returned as have no rank.
    """
    present = {_short(host) for host in taking_part}
    missing = [host for host in allocated if _short(host) not in present]
    too_many = len(dict.fromkeys(allocated)) - len(present)
    return tuple(missing[: max(0, too_many)] if missing else ())


def _short(host: str) -> str:
    return host if re.fullmatch(r"[\d.]+", host) else host.split(".")[0].lower()


def said(hosts: Sequence[str]) -> str:
    """Return how many ranks or workers each host has: "a x 2, b x 2"."""
    shown = [f"{host} x {number}" for host, number in Counter(hosts).items()]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def warning(idle: Sequence[str]) -> str:
    """Return a sentence on hosts without ranks."""
    more = f" and {len(idle) - SHOWN} more" if len(idle) > SHOWN else ""
    return f"{', '.join(idle[:SHOWN])}{more}: in the allocation, but without a rank"


def told(hosts: Sequence[str], allocated: Sequence[str]) -> list[str]:
    """Return a line or two on where the workers are, for the start of a run.

    Args:
        hosts: The host of each worker.
        allocated: The hosts of the job; empty where that is unknown.
    """
    lines = [f"workers on {said(hosts)}"]
    if idle := idle_hosts(allocated, hosts):
        lines.append(f"{warning(idle)}: {CURE}")
    return lines


CURE = (
    "mpirun --map-by ppr:RANKS:node (without --oversubscribe, which fills the first host), "
    "horovodrun -H a:RANKS,b:RANKS, srun --nodes=HOSTS --ntasks-per-node=RANKS, torchrun --nnodes"
)


def of_this_process(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the hosts of the job that this process belongs to."""
    try:
        return allocated_hosts(environ, _above(), lambda path: Path(path).read_text())
    except ValueError:  # a form of Slurm's lists that is not known here
        return ()


def _above() -> list[list[str]]:
    """Return the command lines of the processes above this one, the nearest first; Linux only."""
    return [words for _, words in processes_above()]


def processes_above() -> list[tuple[int, list[str]]]:
    """Return number and command line of the processes above, the nearest first; Linux only."""
    found, pid = [], os.getppid()
    try:
        while pid > 1:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            words = [os.fsdecode(word) for word in raw.split(b"\0")]
            # A script's name follows its interpreter.
            by_python = Path(words[0]).name.startswith("python")
            found.append((pid, words[1:] if by_python else words))
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # another's, or gone
        pass
    return found
