"""What pytest is told and asked in the process of a fault: which tests, in what order, the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest

# A test without a fault takes five seconds of computing at most; a busy machine counts for nothing.
TEST_CPU_S = 25.0
TEST_WAITS_S = 60.0
ENDLESS = "endless"


def words(tests: Sequence[str]) -> list[str]:
    """What pytest is called with."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not launched", "--tb=line"]
    return [*options, f"--timeout={TEST_WAITS_S}", *tests]


class Watch:
    """A pytest plugin.

    Attributes:
        rank: Tests that noticed other faults, and their order.
        near: A word in the names of the tests that come after those: the name of the changed file.
        tell: Descriptor to which the test that noticed, or `ENDLESS`, is written.
        only: Tests and files of tests that may notice; None for all.
    """

    def __init__(
        self,
        first: Sequence[str] = (),
        near: str = " ",
        tell: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self.rank = {test: i for i, test in enumerate(first)}
        self.near, self.tell, self.only = near, tell, only

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out tests that cannot notice, and put those that may first."""
        last, only = len(self.rank), self.only
        if only is not None:
            items[:] = [one for one in items if one.nodeid in only or file_of(one) in only]
        items.sort(key=lambda one: (self.rank.get(one.nodeid, last), self.near not in one.nodeid))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Bound the computing of a test, loops without an end included."""
        signal.signal(signal.SIGPROF, lambda *given: self._give_up())
        signal.setitimer(signal.ITIMER_PROF, TEST_CPU_S)
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember the test that failed; pytest-timeout's are those that waited without an end."""
        if report.failed:
            self._say(ENDLESS if "Timeout (>" in report.longreprtext else report.nodeid)

    def _say(self, word: str) -> None:
        if self.tell is not None:
            os.write(self.tell, word.encode() + b"\n")

    def _give_up(self) -> None:
        self._say(ENDLESS)
        os._exit(1)


def file_of(item: pytest.Item) -> str:
    """The file of a test, as in its name."""
    return item.nodeid.partition("::")[0]


class Traced(Watch):
    """Notes which test calls which function, so that no other is asked about a fault in it.

    Attributes:
        calls: (file, line of its first word) of a function -> tests that call it. What is called
            before a test is every test's in the same file, as fixtures may be shared; what is
            called while tests are imported has the name "".
    """

    def __init__(self, files: Collection[str], tell: int | None) -> None:
        super().__init__(tell=tell)
        self.files, self.calls, self._now = frozenset(files), defaultdict[Any, set[str]](set), ""
        threading.settrace(self._called)
        sys.settrace(self._called)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """What is called from here on belongs to the file."""
        yield from self._during(file_of(item))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """To the test."""
        yield from self._during(item.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """To the file again."""
        yield from self._during(file_of(item))

    def _during(self, name: str) -> Iterator[None]:
        self._now = name
        sys.settrace(self._called)
        yield

    def _called(self, frame: Any, event: str, given: Any) -> None:
        code = frame.f_code
        if code.co_filename in self.files:
            self.calls[code.co_filename, code.co_firstlineno].add(self._now)
