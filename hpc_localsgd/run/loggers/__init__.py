"""Live curves beside the record, on rank 0: one file for each program that shows them.

The record is the HDF5 file; what is here is a copy of its numbers for people who watch. A thread
of its own hands it on: a logger that fails, or waits for a network, delays and ends nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.stderr import say

NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # name -> package
WAITING = 4096  # calls at most: what comes then is left out
CLOSE_WITHIN_S = 10.0


class Logger(Protocol):
    """A program that shows curves."""

    def log(self, t: int, values: dict[str, float]) -> None:
        """Take numbers of the state after t steps, by their names in the record."""

    def close(self, status: str) -> None:
        """Close: the run is complete, stopped or diverged."""


def check(name: str) -> None:
    """Check that a logger is installed, before anything begins.

    Raises:
        ConfigurationError: Its package is not installed.
    """
    if name != "none" and find_spec(NEEDS[name]) is None:
        said = f"--log {name} is not installed. In a clone: pip install '.[{name}]'"
        raise ConfigurationError(said)


class LiveCurves:
    """A logger in a thread of its own, or none."""

    def __init__(self, make: Callable[[], Logger] | None) -> None:
        """Begin.

        Args:
            make: Makes the logger; None to log nothing.
        """
        self._calls: queue.Queue[tuple[int, dict[str, float]] | str] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        if make is not None:
            self._thread = threading.Thread(target=self._hand_on, args=(make,), daemon=True)
            self._thread.start()

    def log(self, t: int, values: dict[str, float]) -> None:
        """Hand on numbers of the state after t steps, without waiting."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._calls.put_nowait((t, values))

    def close(self, status: str) -> None:
        """Hand on the end of the run, and wait a little for what was said before."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._calls.put(status, timeout=CLOSE_WITHIN_S)
            self._thread.join(CLOSE_WITHIN_S)
            self._thread = None

    def _hand_on(self, make: Callable[[], Logger]) -> None:
        try:
            logger = make()
            while not isinstance(call := self._calls.get(), str):
                logger.log(*call)
            logger.close(call)
        except Exception as error:  # of other people's code: the run goes on without
            say(f"no live curves any more: {type(error).__name__}: {error}")
            while not isinstance(self._calls.get(), str):
                pass


def live_curves(name: str, out: Path, config: str) -> LiveCurves:
    """Return the curves of a run.

    Args:
        name: Which logger, a key of `NEEDS`; none for none.
        out: Folder of the run.
        config: Its configuration, as YAML.
    """
    if name == "none":
        return LiveCurves(None)
    return LiveCurves(lambda: import_module(f"{__name__}.to_{name}").begin(out, config))
