"""Start a command alone, under mpirun or under horovodrun, and be sure that all of it ends.

Every process of a job carries a mark in its environment, which launchers hand down to their ranks:
that is how the processes are found and ended, and nobody else's are touched.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAIN = ("-m", "hpc_localsgd.train")
TIMEOUT_S = 100
PATIENCE = 5  # a machine that is shared may be so much slower than two free cores
GONE_WITHIN_S = 30  # after the launcher
may_start_ranks = True  # set before each test: `groups`
_MARK = "HPC_LOCALSGD_TEST_JOB"
_OF_A_TEST = "HPC_LOCALSGD_TEST"  # of whatever a test starts, in all ways
_RANKS = (b"HOROVOD_RANK", b"OMPI_COMM_WORLD_RANK", b"RANK")  # the last is torchrun's
_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HOROVOD_", "SLURM_")
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "HOROVOD_CYCLE_TIME": "0.1",
    # A rank that waits sleeps: there are more ranks than cores, and others have work to do.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
    "OMPI_MCA_threads_pthreads_nanosleep_time": "500000",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `text` is everything it said, without the tags launchers put in front."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    def succeeded(self) -> Outcome:
        """Itself, if the exit status is 0; fails the test with the end of its output if not."""
        assert self.status == 0, f"exit status {self.status}\n{self.text[-3000:]}"
        return self


@dataclass
class Job:
    """A job that is in progress."""

    process: subprocess.Popen[bytes]
    mark: str
    stdout: Path
    stderr: Path

    def pids(self) -> set[int]:
        """Every living process of the job: launcher, daemons and ranks."""
        return _marked(_MARK, self.mark)

    def ranks(self) -> dict[int, int]:
        """Rank -> pid of the Python processes that train."""
        found = {}
        for pid in self.pids():
            if _words(pid, "cmdline")[1:3] == [word.encode() for word in TRAIN]:
                variables = dict(word.partition(b"=")[::2] for word in _words(pid, "environ"))
                said = [variables[name] for name in _RANKS if name in variables]
                found[int(said[0]) if said else 0] = pid
        return found

    def until(self, claim: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for a claim to become true; fails at once where the job ends before."""
        until(lambda: claim() or self.process.poll() is not None, timeout_s, what)
        assert claim(), f"it ended, and still not: {what}\n{self._outcome(-1).text[-3000:]}"

    def wait(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Until the launcher has ended, and then all of the job; fails when one takes too long."""
        try:
            status = self.process.wait(timeout_s := patient(timeout_s))
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s} s:\n{self._outcome(-1).text[-3000:]}")
        self.nothing_is_left()
        return self._outcome(status)

    def nothing_is_left(self) -> None:
        """However a job ends, on request too: no rank, loader or daemon runs on behind it."""
        if left := _gone_within(self.pids, GONE_WITHIN_S):
            pytest.fail(f"{patient(GONE_WITHIN_S)} s after the job ended, these run: {left}")

    def kill(self) -> None:
        """End every process of the job, by its number."""
        for _ in range(3):  # a daemon may be starting another one just now
            for pid in self.pids():
                with _already_gone():
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _outcome(self, status: int) -> Outcome:
        return Outcome(
            status, self.stdout.read_text(errors="replace"), self.stderr.read_text(errors="replace")
        )


@contextmanager
def started(launcher: Sequence[str], arguments: Sequence[str]) -> Iterator[Job]:
    """A Python command under a launcher (`alone`, `mpirun(2)`, ...); killed when the block ends."""
    mark = uuid.uuid4().hex
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OF_LAUNCHERS)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**inherited, **_SETTINGS, _MARK: mark, "PYTHONPATH": path, "PATH": programs}
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "stdout", Path(folder) / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*launcher, sys.executable, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        job = Job(process, mark, out, err)
        try:
            yield job
            if process.poll() is not None:  # else the test did not wait for its end
                job.nothing_is_left()
        finally:
            job.kill()


@contextmanager
def nothing_left(within_s: float = GONE_WITHIN_S) -> Iterator[None]:
    """See that no process that was started in the block is alive behind it; fails the test if so.

    They are ended then, so that no later test meets them.
    """
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_OF_A_TEST, mark)
        yield
    left = _gone_within(lambda: _marked(_OF_A_TEST, mark), within_s)
    # Where none is left none is ended: what `behind_tests` starts just now bears the mark until
    # `env` has taken it off, and a test often ends when such a job has, as the next one starts.
    for pid in _marked(_OF_A_TEST, mark) if left else ():
        with _already_gone():
            os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail(f"{patient(within_s)} s after the test, these run that it started: {left}")


def _gone_within(pids: Callable[[], set[int]], within_s: float) -> list[str]:
    """Wait for processes to end: the command lines of those that do not."""
    end = time.monotonic() + patient(within_s)
    while left := pids():
        if time.monotonic() > end:
            said = (b" ".join(_words(pid, "cmdline")) for pid in left)
            return [words.decode(errors="replace").strip()[:150] for words in said]
        time.sleep(0.05)
    return []


def _marked(name: str, mark: str) -> set[int]:
    wanted = f"{name}={mark}".encode()
    return {pid for pid in _all_pids() if wanted in _words(pid, "environ")}


def behind_tests(launcher: Sequence[str]) -> list[str]:
    """A launcher for a fixture whose thread starts ranks while tests run, which do not await them.

    That nothing is left behind such a job is seen by `started` alone.
    """
    return ["env", f"--unset={_OF_A_TEST}", *launcher]


def run(launcher: Sequence[str], arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> Outcome:
    """Run a Python command under a launcher to its end."""
    with started(launcher, arguments) as job:
        return job.wait(timeout_s)


def train(launcher: Sequence[str], *options: str, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Run the main job under a launcher to its end, without figures."""
    return run(launcher, [*TRAIN, "--figures=false", *options], timeout_s)


alone: tuple[str, ...] = ()


def mpirun(n: int) -> list[str]:
    """`mpirun -np n`, fit for fewer cores than ranks; skips the test where it cannot be had."""
    _need("mpi4py")
    return [_program("mpirun"), "-np", str(n), "--bind-to", "none", "--oversubscribe"]


def horovodrun(n: int, *options: str) -> list[str]:
    """`horovodrun -np n`; skips the test where it cannot be had."""
    _need("horovod")
    return [_program("horovodrun"), *options, "-np", str(n)]


def gloo(n: int) -> list[str]:
    """`horovodrun --gloo -np n`; skips the test where it cannot be had."""
    return horovodrun(n, "--gloo")


def torchrun(n: int) -> list[str]:
    """`torchrun` with n processes on this host, on a free port."""
    return [_program("torchrun"), "--standalone", f"--nproc-per-node={n}", "--no-python"]


def forked(n: int) -> list[str]:
    """n ranks with torchrun's variables, forked from a process that has imported torch already.

    For tests to which the launcher is no matter: they begin in a tenth of the processor time.
    """
    _refuse_where_none_may_start("forked_ranks.py")
    return [sys.executable, str(ROOT / "tests" / "forked_ranks.py"), str(n)]


def patient(timeout_s: float) -> float:
    """Return how long a slow machine may take for what a quiet one does in so many seconds."""
    return PATIENCE * timeout_s


def until(claim: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait for a claim to become true; fails the test when it does not in time."""
    end = time.monotonic() + (timeout_s := patient(timeout_s))
    while not claim():
        if time.monotonic() > end:
            pytest.fail(f"after {timeout_s} s, still not: {what}")
        time.sleep(0.1)


def steps_of_ranks(out: Path) -> list[int]:
    """How far each rank of a run says it is; it says so every five seconds."""
    said = [path.read_text().split() for path in sorted((out / "ranks").glob("rank-*"))]
    return [int(words[1]) for words in said if len(words) > 1]


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:  # one that is there and broken must fail, not skip
        pytest.skip(f"{module} is missing: `make env` installs it")


def _program(name: str) -> str:
    """Find a launcher; a test that starts ranks without saying so fails."""
    _refuse_where_none_may_start(name)
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here: `make env` brings one")
    return found


def _refuse_where_none_may_start(name: str) -> None:
    if not may_start_ranks:
        pytest.fail(f"{name} starts ranks: mark this test with @pytest.mark.launched")


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _words(pid: int, file: str) -> list[bytes]:
    """The NUL-separated words of a file of a process; none if it has ended or is a zombie."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except OSError:
        return []


@contextmanager
def _already_gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        pass
