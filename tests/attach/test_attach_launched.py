"""`attach` on real ranks, many claims to a start; and the scripts of the docs.

One start under Horovod's launcher, whose ranks run all scripts one after another, and one of ranks
with torchrun's variables. Torchrun itself starts a few lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from attached_ranks import CLAIMS, OF_TORCH
from launching import ROOT, Job, behind_tests, forked, horovodrun, run, started, torchrun

pytestmark = pytest.mark.launched

HERE, EXAMPLES = Path(__file__).parent, ROOT / "examples"
CLAIMED = str(HERE / "attached_ranks.py")
SEVERAL = str(HERE / "several_scripts.py")
Launcher = Callable[[int], list[str]]
# What the process imports that forks ranks, beside the imports of the scripts.
FIRST = f"""
import sys
sys.path[:0] = {[str(HERE), str(ROOT / "tests")]}
import saved_by_dcp, torch._dynamo.backends.debugging
"""
# One weight, to which the ranks have slopes of 1 and 2.
FEW_LINES = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import torch.distributed
from without_compiler import leave_the_compiler_out
import hpc_localsgd
leave_the_compiler_out()
torch.distributed.init_process_group("gloo")
model = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.zeros_(model.weight)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
sync = hpc_localsgd.attach(model, optimizer, schedule=hpc_localsgd.every(2), steps=2)
for _ in range(2):
    optimizer.zero_grad()
    model(torch.ones(1, 1) * (torch.distributed.get_rank() + 1)).sum().backward()
    optimizer.step()
    sync.step()
print(f"in {{sync.world!r}}: {{model.weight.item()}}", flush=True)
torch.distributed.destroy_process_group()
"""
# Launcher -> the worlds in which the claims must hold, and the scripts behind them.
LAUNCHES: dict[Launcher, tuple[tuple[str, ...], tuple[str, ...]]] = {
    horovodrun: (
        ("horovod", "mpi"),
        (
            "attach_horovod.py --epochs 6",
            "migrating/horovod_before.py",
            "migrating/horovod_after.py",
        ),
    ),
    forked: (("torch",), ("migrating/ddp_before.py", "migrating/ddp_after.py")),
}
SCRIPTS = [(launcher, each) for launcher, (_, those) in LAUNCHES.items() for each in those]


@pytest.fixture(scope="module")
def job() -> Iterator[Callable[[Launcher], Job]]:
    """The two ranks of a launcher, which run all scripts."""
    with ExitStack() as stack:

        @cache
        def launched(launcher: Launcher) -> Job:
            worlds, scripts = LAUNCHES[launcher]
            words = ["--first", FIRST] if launcher is forked else [SEVERAL]
            words += [CLAIMED, *worlds]
            for script in scripts:
                name, *more = script.split()
                words += ["+", str(EXAMPLES / name), *more]
            return stack.enter_context(started(behind_tests(launcher(2)), words))

        yield launched


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_what_is_claimed_holds_on_ranks(launcher: Launcher, job: Callable[[Launcher], Job]) -> None:
    worlds, running = LAUNCHES[launcher][0], job(launcher)
    of_torch = OF_TORCH if "torch" in worlds else ()
    claims = len(worlds) * len(CLAIMS) + len(of_torch)
    running.until(lambda: said(running).count("holds in ") >= claims, 100, "all claims hold")
    assert said(running).count("holds in ") == claims
    assert all(name in said(running) for name in of_torch)


@pytest.mark.parametrize(("launcher", "script"), SCRIPTS)
def test_the_scripts_of_the_docs_run(
    launcher: Launcher, script: str, job: Callable[[Launcher], Job]
) -> None:
    name, running = Path(script.split()[0]).name, job(launcher)
    sought = r"test accuracy(?: of the mean model)?: (\d\.\d+)\n"
    sought = rf"{sought}{name} ended: \[0, 0\]" if launcher is forked else f"{name}: {sought}"
    running.until(lambda: re.search(sought, said(running)), 100, f"{name} has ended")
    if script == LAUNCHES[launcher][1][-1]:
        running.wait().succeeded()
    found = re.findall(sought, said(running))
    assert len(found) == 1 and float(found[0]) > 0.85, said(running)[-3000:]


def test_ranks_that_torchrun_itself_starts_get_their_mean() -> None:
    found = run(torchrun(2), ["-c", FEW_LINES], timeout_s=100).succeeded().stdout
    assert re.findall(r"in torch\(2 .*: (\S+)\n", found) == ["-3.0"] * 2, found


def said(job: Job) -> str:
    return job.stdout.read_text()
