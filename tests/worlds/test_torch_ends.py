"""A process that has exchanged by Gloo ends without its threads, which could abort it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def threads_left(script: str) -> int:
    """Run a script of one rank, and return how many threads of Gloo it reports at its end."""
    ended = subprocess.run(
        [sys.executable, "-c", BEFORE + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.rpartition(":")[2])


@pytest.mark.parametrize(
    "script",
    [
        BEGUN_BY_US,
        CLOSED,
        BEGUN_BY_THE_SCRIPT.replace("GIVEN", ""),
        BEGUN_BY_THE_SCRIPT.replace("GIVEN", A_PART),
        NO_BACKEND_NAMED,
    ],
    ids=["at exit", "closed", "by the script", "a part of the script's", "no backend named"],
)
def test_whoever_ends_the_process_group_ends_its_threads(script: str) -> None:
    assert threads_left(script) == 0


def test_an_average_under_way_at_the_end_is_waited_for_but_not_for_ever() -> None:
    assert threads_left(UNDER_WAY.replace("ENDS_AFTER", "0.2")) == 0
    assert threads_left(UNDER_WAY.replace("ENDS_AFTER", "1e9")) > 0  # of ranks that are gone
