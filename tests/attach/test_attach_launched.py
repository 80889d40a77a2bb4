"""`attach` on ranks of real launchers, many claims to a start; and the example of the docs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attached_ranks import CLAIMS
from launching import ROOT, horovodrun, mpirun, run, torchrun

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).with_name("attached_ranks.py"))


@pytest.mark.parametrize(
    ("launcher", "worlds"),
    [
        pytest.param(lambda: mpirun(2), ("launched", "mpi"), id="mpirun"),
        pytest.param(lambda: horovodrun(2), ("horovod",), id="horovodrun"),
        pytest.param(lambda: torchrun(2), ("torch",), id="torchrun"),
    ],
)
def test_what_is_claimed_holds_on_ranks(
    launcher: Callable[[], list[str]], worlds: tuple[str, ...]
) -> None:
    outcome = run(launcher(), [SCRIPT, *worlds], timeout_s=90).succeeded()
    assert outcome.text.count("holds in ") == len(worlds) * len(CLAIMS), outcome.text[-3000:]


def test_the_example_runs() -> None:
    script = str(ROOT / "examples" / "attach_horovod.py")
    outcome = run(horovodrun(2), [script, "--epochs", "6"], timeout_s=60).succeeded()
    assert "test accuracy of the mean model" in outcome.text
