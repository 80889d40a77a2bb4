"""A process that has exchanged by Gloo ends without its threads, which could abort it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import ROOT

BEGUN_BY_US = """
import atexit
atexit.register(report)  # runs last, after the handler of the world
world = Torch(rank=0, n=1)
exchange(world)
Torch().mean(torch.ones(1, 10))  # a second one in the same group
assert gloo(), "the group is not on threads any more: this test has lost its object"
"""
CLOSED = """
world = Torch(rank=0, n=1)
exchange(world)
world.close()
report()
"""
BEGUN_BY_THE_SCRIPT = """
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
world = Torch()
exchange(world)
GIVEN
dist.destroy_process_group()
report()  # the world is still there
"""
A_PART = """
part = Torch(group=dist.new_group([0]))
exchange(part)
"""
NO_BACKEND_NAMED = """
dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
world = Torch()
exchange(world)  # of host values too
assert dist.get_pg_count() == 1, "a second group moves what lies in host memory"
assert repr(world).endswith(", gloo)"), world
dist.destroy_process_group()
report()
"""
UNDER_WAY = """
import time
from types import SimpleNamespace as Object
world = Torch(rank=0, n=1)
exchange(world)
begun = time.monotonic()
world._torch._begun = Object(is_completed=lambda: time.monotonic() - begun > ENDS_AFTER)
world._torch._leave()
assert not dist.is_initialized()
report()
"""
BEFORE = """
import os
from pathlib import Path
import torch
import torch.distributed as dist
from hpc_localsgd.worlds.torch import Torch

def gloo():  # the threads that hold tensors; another one only polls the sockets
    return [t for t in Path("/proc/self/task").iterdir() if "runloop" in (t / "comm").read_text()]

def report():
    print("threads of Gloo:", len(gloo()), flush=True)

def exchange(world):
    assert world.mean(torch.ones(1, 10)).sum() == 10
    assert world.begin_mean(torch.ones(1, 10), keep=False).wait().sum() == 10
    world._torch.allgather_host(torch.ones(3))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


SCRIPTS = {
    "at exit": BEGUN_BY_US,
    "closed": CLOSED,
    "by the script": BEGUN_BY_THE_SCRIPT.replace("GIVEN", ""),
    "a part of the script's": BEGUN_BY_THE_SCRIPT.replace("GIVEN", A_PART),
    "no backend named": NO_BACKEND_NAMED,
}
ENDS, DOES_NOT = (UNDER_WAY.replace("ENDS_AFTER", after) for after in ("0.2", "1e9"))


@pytest.fixture(scope="module")
def threads_left(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """How many threads of Gloo a script of one rank reports at its end, of all in one launch."""
    folder, scripts = tmp_path_factory.mktemp("ends"), [*SCRIPTS.values(), ENDS, DOES_NOT]
    words = ["1", sys.executable]
    for i, script in enumerate(scripts):
        (folder / f"{i}.py").write_text(BEFORE + script)
        words += ["+"] * (i > 0) + [str(folder / f"{i}.py")]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "forked_ranks.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = re.findall(r"threads of Gloo: (\d+)\n(\d).py ended: \[0\]", ended.stdout)

    def left(script: str) -> int:
        found = [int(n) for n, i in said if scripts[int(i)] == script]
        assert found, ended.stderr
        return found[0]

    return left


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_whoever_ends_the_process_group_ends_its_threads(
    script: str, threads_left: Callable[[str], int]
) -> None:
    assert threads_left(script) == 0


def test_an_average_under_way_at_the_end_is_waited_for_but_not_for_ever(
    threads_left: Callable[[str], int],
) -> None:
    assert threads_left(ENDS) == 0
    assert threads_left(DOES_NOT) > 0  # of ranks that are gone
