"""Whatever is typed: done or refused in one sentence, without a traceback and with nothing left."""

from __future__ import annotations

import contextlib
import io
import signal
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from fuzzed import PARSERS, as_file, given, words
from hypothesis import HealthCheck, settings
from hypothesis import given as for_all
from small_runs import files_below

import hpc_localsgd.loop
from hpc_localsgd import assemble
from hpc_localsgd.__main__ import COMMANDS
from hpc_localsgd.stopping import Stopped
from hpc_localsgd.types import ConfigurationError

TINY = {
    "workers": "2",
    "steps": "2",
    "batch_per_worker": "4",
    "task.hidden": "4",
    "world": "simulated",
    "figures": "false",
    "batchnorm_batches": "2",
    "out": "out",
}
SECONDS = 20  # for one command line, on a machine that is busy
odd = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """Runs of a few steps are done; of long or large ones, all but the steps."""
    train = hpc_localsgd.loop.train

    def begin(run: Any, position: Any, record: Any) -> None:
        if run.steps > 4 or run.world.size > 8 or run.task.dim > 100_000:
            raise Stopped("far enough")
        train(run, position, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpc_localsgd.loop, "train", begin)
        patch.setattr(assemble, "_WORLDS", dict.fromkeys(assemble._WORLDS, no_launcher))
        yield


def no_launcher(*_: Any) -> Any:
    """In the place of worlds that other processes take part in."""
    raise ConfigurationError("nobody started several processes")


@contextlib.contextmanager
def in_a_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        (Path(name) / "precious").write_text("precious")
        yield Path(name)


def too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def outcome(command: str, argv: Sequence[str]) -> tuple[int, str, str]:
    """Status, output and messages of a command, in this process and in bounded time."""
    out, said = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            status = import_module(COMMANDS[command][0]).main(list(argv))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, out.getvalue(), said.getvalue()


def check(command: str, argv: Sequence[str], folder: Path, done: tuple[int, ...] = (0,)) -> int:
    """The rule, for one command line."""
    begin = f"python -m hpc_localsgd{'.' if command == 'train' else ' '}{command}: "
    before, folders = files_below(folder), sorted(folder.rglob("*"))
    status, _, said = outcome(command, argv)
    assert "Traceback" not in said
    assert status in (*done, 2), said
    if status == 2:
        assert said.startswith(begin) and said.count(begin) == 1 and said.strip() != begin, said
        assert files_below(folder) == before
        assert sorted(folder.rglob("*")) == folders
    return status


def test_every_command_is_fuzzed() -> None:
    assert set(PARSERS) == set(COMMANDS)


@st.composite
def of_a_run(draw: st.DrawFn, command: str) -> list[tuple[str, str]]:
    """Options of a run, tiny where nothing else is said."""
    return draw(given(PARSERS[command]()))


def typed(pairs: list[tuple[str, str]], command: str) -> list[str]:
    named = dict(pairs)
    tiny = {k: v for k, v in TINY.items() if k not in named and k.partition(".")[0] not in named}
    if "epochs" in named:
        tiny.pop("steps", None)
    return words([*tiny.items(), *pairs], PARSERS[command]())


@settings(odd, max_examples=250)
@for_all(of_a_run("train"))
def test_train_does_or_refuses(pairs: list[tuple[str, str]]) -> None:
    with in_a_folder() as folder:
        check("train", typed(pairs, "train"), folder, done=(0, 3, 85))


@settings(odd, max_examples=150)
@for_all(of_a_run("plan"))
def test_plan_does_or_refuses_and_writes_nothing(pairs: list[tuple[str, str]]) -> None:
    with in_a_folder() as folder:
        check("plan", typed(pairs, "plan"), folder)
        assert sorted(folder.rglob("*")) == [folder / "precious"]


@settings(odd, max_examples=150)
@for_all(of_a_run("train"))
def test_a_file_is_done_or_refused(pairs: list[tuple[str, str]]) -> None:
    in_words = [(name, value) for name, value in TINY.items() if name not in dict(pairs)]
    with in_a_folder() as folder:
        (folder / "run.yaml").write_text(as_file(pairs), encoding="utf-8")
        own = {name for name, _ in pairs}
        tiny = [p for p in in_words if p[0].partition(".")[0] not in own]
        if "epochs" in own:
            tiny = [p for p in tiny if p[0] != "steps"]
        argv = ["--config=run.yaml", *words(tiny, PARSERS["train"]())]
        check("train", argv, folder, done=(0, 3, 85))
