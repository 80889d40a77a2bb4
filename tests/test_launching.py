"""What outlives a job or a test that started it fails that test, with its command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import launching
import pytest

SLEEP = "import time; time.sleep(600)"
LEAVES = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{SLEEP}'])"


def test_a_process_that_outlives_its_test_is_named_and_ended() -> None:
    # Not its child: what ranks leave behind is nobody's.
    with pytest.raises(pytest.fail.Exception, match=r"it started: \['.* time\.sleep\(600\)'\]"):
        with launching.nothing_left(within_s=0.0):
            subprocess.run([sys.executable, "-c", LEAVES], check=True)
    with launching.nothing_left(within_s=0.0):
        pass  # nothing is seen of the test before


def test_a_process_that_outlives_its_job_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GONE_WITHIN_S", 0.0)
    with pytest.raises(pytest.fail.Exception, match=r"these run: \['.* time\.sleep\(600\)'\]"):
        with launching.started(launching.alone, ["-c", LEAVES]) as job:
            job.process.wait(30)  # and no more than that
    assert not job.pids()


@pytest.mark.parametrize("launcher", [launching.mpirun, launching.horovodrun, launching.torchrun])
def test_a_test_that_does_not_say_so_gets_no_launcher(launcher: Callable[[int], list[str]]) -> None:
    with pytest.raises(pytest.fail.Exception, match="mark this test with @pytest.mark.launched"):
        launcher(2)
