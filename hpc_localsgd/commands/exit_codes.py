"""How a command ends: one message for the whole job, whatever went wrong and on how many ranks.

Exit status: 0 done, 2 a fault of the request, 3 the training diverged, 85 stopped on request, 86
ended because a rank hung (both: resume it), 87 the folder or the record of the run is gone, or
cannot be read (a user must look), 130 a second Ctrl-C, 1 anything else. Under `torchrun
--max-restarts N` a run that was stopped ends with 0, or it would be started again at once; with 88
where it is to be, among the agents that are there now.
"""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from hpc_localsgd.commands.argparse_words import in_words
from hpc_localsgd.errors import ConfigurationError, DataError, Gone, NotKept, Unreachable
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import GONE as GONE
from hpc_localsgd.run.stopping import HUNG as HUNG
from hpc_localsgd.run.stopping import INTERRUPTED, REGROUPED, end, to_launcher
from hpc_localsgd.run.stopping import STOPPED as STOPPED

if TYPE_CHECKING:
    from hpc_localsgd.engine.launch import Launch
    from hpc_localsgd.worlds.base import World

OK, FAULT, DIVERGED = 0, 2, 3


class CommandParser(ArgumentParser):
    """Parser of a command, that refuses a command line with one line, without a page of usage."""

    @classmethod
    def documented(cls, prog: str, text: str | None, usage: str | None = None) -> CommandParser:
        """Return a parser whose help is a module's docstring, laid out as it is there.

        Args:
            prog: The command, for messages.
            text: The docstring: its first line, and what stands below the options.
            usage: In place of the one that is made of the options.
        """
        first, _, rest = (text or "").partition("\n")
        look = RawDescriptionHelpFormatter
        return cls(prog=prog, description=first, epilog=rest, formatter_class=look, usage=usage)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with the status of invalid input."""
        complain(f"{in_words(message, self)} (see {self.prog} --help)", self.prog)
        sys.exit(FAULT)


def complain(message: str, prog: str) -> None:
    """Print one line to standard error, in one write."""
    from hpc_localsgd.trajectory.safe_text import readable  # with h5py, which help needs not

    text = readable(message, "\n\t")  # names in it may be a stranger's
    say(f"{prog}: {text}")


def refuse(message: str, launch: Launch, prog: str, alike: bool = False) -> int:
    """End a command that has no world yet; return the exit status.

    Rank 0 speaks at once and ends, and its launcher ends the others. A rank that is still there
    after a moment may have a fault of its own, that rank 0 does not know of.

    Args:
        message: What is wrong.
        launch: Which rank this is.
        prog: The command, for the message.
        alike: All ranks are known to have the same fault: the others say nothing.
    """
    if launch.rank != 0:
        time.sleep(2.0)
        message = f"rank {launch.rank}: {message}"
    if launch.rank == 0 or not alike:
        complain(message, prog)
    return FAULT


def in_world(world: World, prog: str, work: Callable[[], int]) -> int:
    """Do the work of a command and close its world; return the exit status.

    A ConfigurationError inside a world is all ranks' alike, and rank 0 says it. Anything else is
    this rank's alone, while the others may be waiting for it: the job ends at once. So it does when
    it was asked to stop: the others are anywhere, and there is no exchange to end together with.
    """
    try:
        status = work()
    except ConfigurationError as error:
        if world.rank == 0:
            complain(str(error), prog)
        with suppress(Unreachable):
            world.close()
        return FAULT
    except (DataError, NotKept) as error:
        complain(f"rank {world.rank}: {error}", prog)
        world.abort(1)
        raise
    except Gone as error:
        complain(str(error), prog)
        status = GONE
    except Unreachable as error:  # outside the loop of a run: there is nothing to keep
        complain(str(error), prog)
        status = HUNG
    except KeyboardInterrupt:
        if world.n > 1:  # the others wait for this rank, and its launcher ends them
            end(INTERRUPTED)
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        world.abort(1)
        raise
    if status in (STOPPED, HUNG, GONE, REGROUPED) and world.n > 1:
        end(status)
    with suppress(Unreachable):  # what this rank had to do is done
        world.close()
    return to_launcher(status)
