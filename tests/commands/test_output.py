"""Messages that nobody takes: the work is done all the same, without a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, TRAIN

from hpc_localsgd.commands.output import put
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory

SPEAKS = """
import sys
from hpc_localsgd.commands.output import outlive_readers
outlive_readers()
for i in range(3):
    sys.stdout.write(f"{i} \u00e9" + 9000 * "x" + "\\n")
    sys.stdout.flush()
    sys.stderr.write(f"error {i}\\n")
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "µs \u00e9"), ("ascii", "?s ?"), ("latin-1", "µs \u00e9")]
)
def test_what_a_terminal_does_not_have_is_replaced(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, encoding=encoding))
    put("µs \u00e9")
    assert bytes_.getvalue().decode(encoding) == shown + "\n"  # and at once


def spoken(where: str, *python: str) -> tuple[int, str]:
    """Exit status and standard error of a program whose output goes where the shell says."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = f"exec {sys.executable} {' '.join(python)} -c '{SPEAKS}' {where}"
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("python", [(), ("-u",)])
def test_a_disk_without_space_is_named_once_and_the_work_goes_on(python: tuple[str, ...]) -> None:
    status, said = spoken("> /dev/full", *python)
    assert status == 7 and "Traceback" not in said
    assert said.count("No space left on device") == 1 and "error 2" in said


@pytest.mark.parametrize("where", [">&-", "2>&-", ">&- 2>&-", "2> /dev/full"])
def test_a_closed_stream_ends_nothing(where: str) -> None:
    status, said = spoken(where)
    assert status == 7 and "Traceback" not in said


@pytest.mark.parametrize("python", [(), ("-u",)])
def test_what_is_taken_arrives(tmp_path: Path, python: tuple[str, ...]) -> None:
    assert spoken(f"> {tmp_path / 'out'}", *python)[0] == 7
    said = (tmp_path / "out").read_text(encoding="utf-8")
    assert said == "".join(f"{i} \u00e9{9000 * 'x'}\n" for i in range(3))


def test_a_run_whose_reader_has_gone_is_recorded_to_its_end(tmp_path: Path) -> None:
    """`train | head -1`, and messages to follow."""
    options = ["--steps=200", "--workers=1", "--task.hidden=8", "--evaluate-every=1"]
    with subprocess.Popen(
        [sys.executable, *TRAIN, *options, "--figures=false", f"--out={tmp_path}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        said = run.stderr.read().decode()
        assert run.wait(400) == 0 and "Traceback" not in said and "Broken" not in said
    record = Trajectory(tmp_path)
    assert record.status == "complete" and record.series("eval/test/accuracy").step[-1] == 200


# Each command with an output of its own, whose reader has gone before it begins.
UNREAD = """
import os, sys
from hpc_localsgd.__main__ import run
for words in {given!r}:
    reader, output = os.pipe()
    os.close(reader)
    os.dup2(output, 1)
    os.close(output)
    sys.argv = ["hpc_localsgd", *words]
    assert run() == 0, words
    sys.stdout.flush()
    assert os.readlink("/proc/self/fd/1") == os.devnull, f"nothing was written: {{words}}"
"""


def test_no_command_minds_that_its_reader_has_gone(tmp_path: Path) -> None:
    """`summary RUN | head -0`, and the others: one process for all, importing torch takes long."""
    run = str(tmp_path)
    options = ["--steps=4", "--task.hidden=4", "--workers=1", "--figures=false"]
    assert train([*options, f"--out={run}"]) == 0
    given = [[name, run] for name in ("report", "cite", "summary", "compare")]
    given += [["plan", *options[:3]], ["doctor"], ["--help"]]
    command = [sys.executable, "-c", UNREAD.format(given=given)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr, done.stderr
