"""A process ends when it is told to, whoever reads what it says."""

from __future__ import annotations

import os
import subprocess
import sys

END = "from hpc_localsgd.worlds.process_end import end_process; end_process(7)"
SAYS = f"print('the last word', end=''); {END}"
# Another thread is in the middle of a write of more than a pipe takes.
STUCK = (
    "import sys, threading, time; "
    "threading.Thread(target=lambda: sys.stdout.write('x' * 10_000_000), daemon=True).start(); "
    f"time.sleep(0.3); {END}"
)


def ended(script: str, reader: int | None = None) -> subprocess.Popen[bytes]:
    out = subprocess.PIPE if reader is None else reader
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen([sys.executable, "-c", script], stdout=out, env=environ)


def test_what_was_said_is_written() -> None:
    process = ended(SAYS)
    said, _ = process.communicate(timeout=60)
    assert said == b"the last word" and process.returncode == 7


def test_a_reader_that_has_gone_does_not_change_the_status() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    process = ended(SAYS, writes)
    os.close(writes)
    assert process.wait(timeout=60) == 7


def test_one_stream_that_fails_leaves_the_other() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    script = f"import sys; sys.stderr.write('why'); {SAYS}"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        [sys.executable, "-c", script], stdout=writes, stderr=subprocess.PIPE, env=environ
    )
    os.close(writes)
    assert (process.returncode, process.stderr) == (7, b"why")


def test_what_is_to_be_done_before_the_end_does_not_keep_it() -> None:
    fails = "stopping.before_end.add(lambda: 1 / 0)"
    script = f"from hpc_localsgd.run import stopping; {fails}; stopping.end(7)"
    assert ended(script).wait(timeout=60) == 7


def test_a_reader_that_stands_still_does_not_keep_it() -> None:
    reads, writes = os.pipe()
    process = ended(STUCK, writes)
    assert process.wait(timeout=60) == 7
    os.close(writes)
    os.close(reads)
