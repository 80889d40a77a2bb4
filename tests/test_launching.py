"""What outlives a job or a test that started it fails that test, with its command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import groups
import launching
import pytest
import slow

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


def test_what_is_said_to_be_slow_or_long_is_there() -> None:
    """A file that is moved, or a test that is renamed, would be everyday without a word."""
    for file, _, test in (name.partition("::") for name in {*slow.FILES, *slow.TESTS}):
        assert f"def {test}" in (groups.HERE / file).read_text(), (file, test)
    named = {Path(group).stem for group in groups.FIRST}
    assert named <= {
        path.stem for path in groups.HERE.rglob("*") if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("path", "names", "group"),
    [
        ("hosts/test_link_down.py", ["hosts"], "hosts"),
        ("hosts/test_crash_of_a_host.py", ["hosts", "slurm"], "hosts"),
        ("slurm/test_jobs.py", ["cluster"], "slurm"),
        ("mpi/test_stopping.py", ["whole"], "test_stopping"),
    ],
)
def test_tests_that_share_a_launch_run_in_one_process(
    path: str, names: list[str], group: str
) -> None:
    item = Stand(groups.HERE / path, names)
    other = Stand(groups.HERE / "attach" / "test_attach_same.py", [])
    groups.mark(items := [item, other])  # type: ignore[list-item]
    assert items == [other, item]
    assert item.marks["xdist_group"].args == (group,) and "launched" in item.marks
    assert ("slurm" in item.marks) == bool({"slurm", "cluster"} & set(names))
    assert not other.marks


class Stand:
    """What `groups` looks at of a test."""

    def __init__(self, path: Path, fixturenames: list[str]) -> None:
        self.path, self.fixturenames, self.name = path, fixturenames, "test_it"
        self.marks: dict[str, pytest.Mark] = {}

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks[mark.name] = mark.mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.marks.get(name)
