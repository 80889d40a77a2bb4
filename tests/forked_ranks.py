"""Ranks that have torch imported as they start:

    forked_ranks.py N python [--first CODE] SCRIPT [WORD...] [+ SCRIPT [WORD...] ...]

Importing torch is most of the processor time of a rank that trains for a moment. Here one process
executes CODE and the imports at the head of the scripts, and then forks N ranks for each script in
turn, with the variables that torchrun sets (none if N is 1). They end as Python does; a script of
which a rank fails loses its other ranks, and the next one begins. How the ranks of a script ended
is said behind their own output.
"""

from __future__ import annotations

import ast
import gc
import os
import runpy
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

# What else is imported, for a second and a half, as an optimizer is made and attached.
OF_OPTIMIZERS = ("torch._dynamo", "hpc_localsgd.attach")
NOT_THOSE = "leave_the_compiler_out"  # where a script calls it


def import_for(script: Path) -> None:
    """Execute the imports at the head of a script, and what follows of its optimizers."""
    sys.path.insert(0, str(script.parent))
    text = script.read_text()
    body = ast.parse(text).body
    imports = [each for each in body if isinstance(each, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), str(script), "exec"), {"__name__": script.stem})
    sys.path.remove(str(script.parent))
    for name in OF_OPTIMIZERS if "optimizer" in text and NOT_THOSE not in text else ():
        import_module(name)


def free_port() -> int:
    """Return a port on which nobody listens, and which the system gives to no connection."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("all ports are taken")


def fork(n: int) -> list[int]:
    """Return the ranks' processes; in these, nothing."""
    sys.stdout.flush()
    ranks, port = [], free_port()
    for rank in range(n):
        if not (pid := os.fork()):
            if n > 1:
                of_a_rank = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
                of_all = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "GROUP_WORLD_SIZE": 1}
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                named = {"TORCHELASTIC_RUN_ID": port, "TORCHELASTIC_RESTART_COUNT": 0}
                given = of_a_rank | of_all | place | named
                os.environ.update({name: str(value) for name, value in given.items()})
            return []
        ranks.append(pid)
    return ranks


def wait(ranks: list[int]) -> list[int]:
    """Return how all ranks have ended; once one has failed, the others are told to end."""
    ended = {}
    while len(ended) < len(ranks):
        pid, status = os.wait()
        ended[pid] = os.waitstatus_to_exitcode(status)
        if ended[pid]:
            for other in set(ranks) - set(ended):
                os.kill(other, signal.SIGTERM)
    return [ended[pid] for pid in ranks]


def main(n: int, words: list[str]) -> int:
    """Run each of the scripts that are named between the +."""
    first, words = (words[1], words[2:]) if words[0] == "--first" else ("", words)
    commands: list[list[str]] = [[]]
    for word in words:
        commands.append([]) if word == "+" else commands[-1].append(word)
    gc.disable()  # what is imported stays
    exec(first, {})
    for script, *_ in commands:
        import_for(Path(script))
    gc.freeze()
    gc.enable()
    failed = 0
    for script, *given in commands:
        if not (ranks := fork(n)):
            sys.argv = [script, *given]
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
            return 0
        statuses = wait(ranks)
        failed += any(statuses)
        print(f"{Path(script).name} ended: {statuses}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[3:]))
