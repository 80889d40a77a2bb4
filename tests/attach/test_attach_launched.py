"""`attach` on ranks of real launchers, many claims to a start; and the scripts of the docs.

One start of each launcher, whose ranks run all scripts one after another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from attached_ranks import CLAIMS, OF_TORCH
from launching import ROOT, horovodrun, mpirun, run, torchrun

pytestmark = pytest.mark.launched

HERE, EXAMPLES = Path(__file__).parent, ROOT / "examples"
CLAIMED = str(HERE / "attached_ranks.py")
Launcher = Callable[[int], list[str]]
# Launcher -> the worlds in which the claims must hold, and the scripts behind them.
LAUNCHES: dict[Launcher, tuple[tuple[str, ...], tuple[str, ...]]] = {
    mpirun: (("launched", "mpi"), ()),
    horovodrun: (
        ("horovod",),
        (
            "attach_horovod.py --epochs 6",
            "migrating/horovod_before.py",
            "migrating/horovod_after.py",
        ),
    ),
    torchrun: (("torch",), ("migrating/ddp_before.py", "migrating/ddp_after.py")),
}
SCRIPTS = [(launcher, each) for launcher, (_, those) in LAUNCHES.items() for each in those]


@pytest.fixture(scope="module")
def said() -> Callable[[Launcher], str]:
    """What the two ranks of a launcher said, in all scripts."""

    @cache
    def launched(launcher: Launcher) -> str:
        worlds, scripts = LAUNCHES[launcher]
        words = [CLAIMED, *worlds]
        for script in scripts:
            name, *more = script.split()
            words += ["+", str(EXAMPLES / name), *more]
        return run(launcher(2), [str(HERE / "several_scripts.py"), *words]).succeeded().text

    return launched


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_what_is_claimed_holds_on_ranks(
    launcher: Launcher, said: Callable[[Launcher], str]
) -> None:
    worlds, text = LAUNCHES[launcher][0], said(launcher)
    of_torch = OF_TORCH if "torch" in worlds else ()
    assert text.count("holds in ") == len(worlds) * len(CLAIMS) + len(of_torch), text[-3000:]
    assert all(name in text for name in of_torch), text[-3000:]


@pytest.mark.parametrize(("launcher", "script"), SCRIPTS)
def test_the_scripts_of_the_docs_run(
    launcher: Launcher, script: str, said: Callable[[Launcher], str]
) -> None:
    name = Path(script.split()[0]).name
    found = re.findall(rf"{name}: test accuracy(?: of the mean model)?: (\d\.\d+)", said(launcher))
    assert len(found) == 1 and float(found[0]) > 0.85, said(launcher)[-3000:]
