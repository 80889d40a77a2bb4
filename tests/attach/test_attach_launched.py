"""`attach` on real ranks, many claims to a start; and the scripts of the docs.

One start under Horovod's launcher, whose ranks run all scripts one after another, and one of ranks
with torchrun's variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from attached_ranks import CLAIMS, OF_TORCH
from launching import ROOT, Job, behind_tests, forked, horovodrun, started

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


def said(job: Job) -> str:
    return job.stdout.read_text()
