"""What outlives a job or a test that started it fails that test, with its command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import groups
import launching
import pytest
import slow

SLEEP = "import time; time.sleep(600)"
# It has begun when this ends: /proc shows nothing of a process that is about to become another.
BEGUN = f"[sys.executable, '-c', 'print(flush=True); {SLEEP}'], stdout=subprocess.PIPE"
LEAVES = f"import subprocess, sys; subprocess.Popen({BEGUN}).stdout.readline()"


def test_a_process_that_outlives_its_test_is_named_and_ended() -> None:
    # Not its child: what ranks leave behind is nobody's.
    with pytest.raises(pytest.fail.Exception, match=r"it started: \['.* time\.sleep\(600\)'\]"):
        with launching.nothing_left(within_s=0.0):
            mark = os.environ[launching._OF_A_TEST]
            subprocess.run([sys.executable, "-c", LEAVES], check=True)
    left = partial(launching._marked, launching._OF_A_TEST, mark)
    launching.until(lambda: not left(), 20, "the killed process is gone")
    with launching.nothing_left(within_s=0.0):
        pass  # nothing is seen of the test before


def test_a_process_that_another_thread_starts_as_a_test_ends_is_let_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has the mark of the test until `env` has taken it off: see `behind_tests`."""
    started = list[subprocess.Popen[bytes]]()

    def none_is_left(*_: object) -> list[str]:
        command = [sys.executable, "-c", f"print(flush=True); {SLEEP}"]
        marked = {**os.environ, launching._OF_A_TEST: marks[0]}
        started.append(subprocess.Popen(command, env=marked, stdout=subprocess.PIPE))
        assert started[0].stdout is not None and started[0].stdout.readline()
        return []

    monkeypatch.setattr(launching, "_gone_within", none_is_left)
    with launching.nothing_left():
        marks = [os.environ[launching._OF_A_TEST]]
    process = started[0]
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_outlives_its_job_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GONE_WITHIN_S", 0.0)
    with pytest.raises(pytest.fail.Exception, match=r"these run: \['.* time\.sleep\(600\)'\]"):
        with launching.started(launching.alone, ["-c", LEAVES]) as job:
            job.process.wait(30)  # and no more than that
    launching.until(lambda: not job.pids(), 20, "the killed process is gone")


@pytest.mark.parametrize("launcher", [launching.mpirun, launching.horovodrun, launching.torchrun])
def test_a_test_that_does_not_say_so_gets_no_launcher(launcher: Callable[[int], list[str]]) -> None:
    with pytest.raises(pytest.fail.Exception, match="mark this test with @pytest.mark.launched"):
        launcher(2)


def test_files_that_are_not_imported_have_no_test_that_is_asked_for(
    request: pytest.FixtureRequest,
) -> None:
    """`make test` looks at all of them; an expression of another form leaves nothing out."""
    quick, mpi = "not launched and not slow", groups.HERE / "mpi"
    asked = {
        item.path
        for item in request.session.items
        if not {"launched", "slow"} & {mark.name for mark in item.iter_markers()}
    }
    places = asked | {path.parent for path in asked}
    assert not [place for place in places if groups.left_out(place, quick)]
    assert all(groups.left_out(mpi.parent / each, quick) for each in ("mpi", "test_recipes.py"))
    for other in ("", "not slow", "not (launched or slow)", f"{quick} and not cuda or recipe"):
        assert not groups.left_out(mpi, other)


def test_what_is_said_to_be_slow_or_long_is_there() -> None:
    """A file that is moved, or a test that is renamed, would be everyday without a word."""
    for file, _, test in (name.partition("::") for name in {*slow.FILES, *slow.TESTS}):
        assert f"def {test}" in (groups.HERE / file).read_text(), (file, test)
    named = {Path(group).stem for group in groups.FIRST}
    assert named <= {
        path.stem for path in groups.HERE.rglob("*") if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("hosts/test_link_down.py", ["hosts"]),
        ("hosts/test_crash_of_a_host.py", ["hosts", "slurm"]),
        ("slurm/test_jobs.py", ["cluster"]),
        ("mpi/test_stopping.py", ["halted"]),
    ],
)
def test_tests_that_start_ranks_come_last_and_say_what_they_use(
    path: str, names: list[str]
) -> None:
    item = Stand(groups.HERE / path, names)
    other = Stand(groups.HERE / "attach" / "test_attach_same.py", [])
    groups.mark(items := [item, other])  # type: ignore[list-item]
    assert items == [other, item] and "launched" in item.marks
    assert ("slurm" in item.marks) == bool({"slurm", "cluster"} & set(names))
    assert not other.marks


CONFTEST = """
import sys
sys.path.insert(0, {here!r})
import groups
def pytest_xdist_make_scheduler(config, log):
    return groups.ByGroup(config, log)
"""


def test_tests_that_share_a_launch_run_in_one_process(tmp_path: Path) -> None:
    """Two folders whose files share their fixtures, and files of their own, two without ranks."""
    several = "import pytest\n@pytest.mark.parametrize('i', range(4))\ndef test_it(i): pass\n"
    files = ["attach/test_f.py", "attach/test_g.py", "hosts/test_a.py", "hosts/test_b.py"]
    files += ["slurm/test_c.py", "slurm/test_d.py", "mpi/test_e.py"]
    for file in files:
        path = tmp_path / "tests" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(several)
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.format(here=str(groups.HERE)))
    command = [sys.executable, "-m", "pytest", "tests", "-v", "-n3", "--dist=loadgroup"]
    command += ["--no-loadscope-reorder", "-p", "no:cacheprovider"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240).stdout
    ran = re.findall(r"\[(gw\d)\].* PASSED tests/(.*)/(test_.)", said)
    assert len(ran) == 4 * len(files), said[-2000:]
    workers: dict[str, set[str]] = {}
    for worker, folder, file in ran:
        workers.setdefault(folder if folder in ("hosts", "slurm") else file, set()).add(worker)
    assert all(len(of_group) == 1 for of_group in workers.values()), workers
    assert workers["hosts"] | workers["slurm"] == {"gw0", "gw1"}
    assert workers["test_f"] == {"gw2"}  # begins with one that starts no ranks


class Stand:
    """What `groups` looks at of a test."""

    def __init__(self, path: Path, fixturenames: list[str]) -> None:
        self.path, self.fixturenames, self.name = path, fixturenames, "test_it"
        self.nodeid = f"{path.relative_to(groups.HERE.parent)}::test_it"
        self.marks: dict[str, pytest.Mark] = {}

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks[mark.name] = mark.mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.marks.get(name)


@pytest.mark.launched
def test_of_forked_ranks_one_that_fails_ends_the_others_and_the_next_script_runs(
    tmp_path: Path,
) -> None:
    fails = "import os, time\nif os.environ['RANK'] == '1':\n    raise OSError('of rank 1')\n"
    scripts = {"fails.py": f"{fails}time.sleep(600)", "other.py": "print('the other one')"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    ended = launching.run(
        launching.forked(2), [str(tmp_path / "fails.py"), "+", str(tmp_path / "other.py")]
    )
    assert ended.status == 1 and "OSError: of rank 1" in ended.stderr
    assert ended.stdout.splitlines()[0] == "fails.py ended: [-15, 1]"
    assert ended.stdout.count("the other one") == 2 and "other.py ended: [0, 0]" in ended.stdout


def test_who_waits_for_a_job_does_not_wait_for_one_that_has_ended() -> None:
    with launching.started(launching.alone, ["-c", "print('this')"]) as job:
        job.until(lambda: "this" in job.stdout.read_text(), 100, "this")
        with pytest.raises(AssertionError, match="it ended, and still not: that\nthis"):
            job.until(lambda: "that" in job.stdout.read_text(), 10, "that")
