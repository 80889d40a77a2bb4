"""What all tests share: one thread, no marks of a launcher, and the helpers beside this file.

Modules of this folder (`launching`, `small_runs`) can be imported by every test: pytest puts the
folder of a conftest on the path.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
# Runs started inside this process are alone, whatever started pytest.
for name in [n for n in os.environ if n.startswith(("OMPI_COMM_", "PMIX_", "PMI_", "HOROVOD_"))]:
    del os.environ[name]

gc.disable()  # until all tests are collected
import groups  # noqa: E402
import launching  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test's global random numbers do not depend on the tests before it."""
    import torch

    torch.default_generator.manual_seed(1234)  # torch.manual_seed notes who asks: 0.8 ms


@pytest.fixture
def signals_of_a_login() -> Iterator[None]:
    """Ctrl-C and the end of a login are heard, also where pytest runs behind or by nohup."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def nothing_runs_on() -> Iterator[None]:
    """The test leaves no process behind, however what it started has ended."""
    with launching.nothing_left():
        yield


@pytest.fixture(autouse=True)
def no_process_is_left(request: pytest.FixtureRequest) -> None:
    """So it is with all tests that start ranks."""
    if "launched" in request.keywords:
        request.getfixturevalue("nothing_runs_on")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of which `-m` leaves out every test."""
    return groups.left_out(collection_path, config.getoption("markexpr")) or None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell apart the tests that start ranks; see `groups`."""
    groups.mark(items)


def pytest_collection_finish() -> None:
    """Collect no garbage among thousands of tests and all of torch, which stay to the end.

    What tests leave is collected seldom: figures that are kept were looked through again and
    again, a tenth of the time of tests that draw.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let no model that a test has left attached be spoken of when this process ends."""
    if order := sys.modules.get("hpc_localsgd.attach.call_order"):
        atexit.unregister(order.say_unfinished)


def pytest_configure(config: pytest.Config) -> None:
    """Run the workers that only compute behind those whose ranks wait for each other."""
    if hasattr(config, "workerinput"):
        groups.give_way(config.workerinput["workerid"])
    if config.getoption("dist", "no") == "no":  # what deals tests to workers needs no torch
        one_thread()
        small_fonts()


def one_thread() -> None:
    """Let this process, in which tests run, compute on one thread and look for no deadlines."""
    import torch
    from hypothesis import settings

    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` loads its compiler
    settings.register_profile("here", deadline=None)
    settings.load_profile("here")


def small_fonts() -> None:
    """Cut fonts for PDFs without tables that no reader of a PDF uses: a third of their time."""
    from fontTools.subset import Options

    Options._drop_tables_default = [*Options._drop_tables_default, "GSUB", "GPOS", "GDEF"]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> groups.ByGroup | None:
    """Keep tests that share a launch on one worker; see `groups`."""
    return groups.ByGroup(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test start ranks only where it is marked so; see `groups`."""
    groups.about_to_run(item)
