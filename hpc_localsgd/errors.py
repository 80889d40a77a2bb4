"""The errors that end a run or a command with a sentence, without a traceback."""

from __future__ import annotations


def of_file(error: OSError) -> str:
    """Return what the system said of a file, with the file.

    Raises:
        OSError: The error itself, where it is of no file that was asked for.
    """
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}"


class ConfigurationError(ValueError):
    """An error in the user's request: what was given, what is allowed, what to type.

    Raised before any rank communicates, and by all ranks alike. The command prints its text
    without a traceback.
    """


class DataError(RuntimeError):
    """An error in the data that one rank found during a run, naming file and item.

    Unlike a ConfigurationError it is this rank's alone: the job is ended at once. The command
    prints its text without a traceback.
    """


class Unreachable(RuntimeError):
    """A failed exchange: a rank that this one talks with is gone, or the network between them.

    What a rank has kept can be resumed. The command prints its text without a traceback.
    """


class Gone(RuntimeError):
    """A finished run whose record is missing, or cannot be read.

    Trying again would find the same. The command prints its text without a traceback.
    """


class NotKept(RuntimeError):
    """A checkpoint that this rank could not write at the end of a run.

    Earlier checkpoints are on disk. The command prints its text without a traceback.
    """
