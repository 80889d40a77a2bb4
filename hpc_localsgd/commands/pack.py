"""`python -m hpc_localsgd pack FOLDER FILE.h5`: a tree of images as one file.

Continues where it was interrupted. Exit status: 0 done, 2 a fault of the request, 1 anything else.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_localsgd.commands.exit_codes import FAULT, OK, CommandParser, complain
from hpc_localsgd.errors import ConfigurationError

PROG = "python -m hpc_localsgd pack"
SAY_EVERY_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Pack as the command line says; return the exit status."""
    options = parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    try:
        return _pack(Path(options.folder), Path(options.out))
    except ConfigurationError as error:
        complain(str(error), PROG)
        return FAULT
    except (OSError, RuntimeError) as error:  # what is written stays, and the rest can follow
        from hpc_localsgd.trajectory.diskspace import refused, to_continue

        complain(f"{refused(error, options.out)}; {to_continue(error)}", PROG)
        return 1


def parser() -> CommandParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog=PROG,
        description="Put the encoded images of FOLDER/train/CLASS/ and FOLDER/val/CLASS/ into one "
        "HDF5 file, for --task imagenet --task.data OUT. Parallel file systems like one large file "
        "better than a million small ones. Type the same command to continue.",
    )
    made.add_argument("folder", metavar="FOLDER", help="with train/CLASS/*.jpg and val/CLASS/*.jpg")
    made.add_argument("out", metavar="FILE.h5", help="the file to write, *.h5")
    return made


def _pack(folder: Path, out: Path) -> int:
    from hpc_localsgd.tasks.vision.hdf5_writer import listed, pack
    from hpc_localsgd.trajectory.estimate import human_bytes

    if out.suffix not in (".h5", ".hdf5"):
        raise ConfigurationError(f"{out} must end in .h5, by which --task.data knows it")
    print(f"listing {folder} ...", flush=True)
    listing = listed(folder)
    counts = ", ".join(f"{len(names)} {split}" for split, names in listing.names.items())
    total = human_bytes(listing.total)
    if left_out := listing.folder.left_out:
        print(f"left out, being neither image nor class: {_first_of(left_out)}", flush=True)
    if empty := listing.empty:
        cure = "copy again; --task.skip-corrupt trains without those of train"
        print(f"empty: {_first_of(empty)}; {cure}", flush=True)
    print(f"{counts} images of {len(listing.folder.classes)} classes, {total}", flush=True)
    already = "" if pack(listing, out, _Progress()) else " already"
    options = _options(out, len(listing.folder.classes))
    print(f"{out} is complete{already}: {options}", flush=True)
    return OK


def _first_of(found: Sequence[object]) -> str:
    """Return the first, and how many more there are."""
    return f"{found[0]} and {len(found) - 1} more" if len(found) > 1 else str(found[0])


def _options(out: Path, classes: int) -> str:
    """Return the options that train on the packed file."""
    from hpc_localsgd.tasks.imagenet import imagenet

    other = "" if classes == imagenet.classes else f" --task.classes {classes}"
    return f"--task imagenet --task.data {shlex.quote(str(out))}{other}"


class _Progress:
    """Progress, a line every few seconds."""

    def __init__(self) -> None:
        self._began_s = self._said_s = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        from hpc_localsgd.cost.formatting import human_seconds
        from hpc_localsgd.trajectory.estimate import human_bytes

        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._said_s < SAY_EVERY_S and done < total:
            return
        self._said_s = now
        rate = (done - self._first) / max(now - self._began_s, 1e-9)
        left = f", {human_seconds((total - done) / rate)} left" if rate and done < total else ""
        said = f"{human_bytes(done)} of {human_bytes(total)}, {human_bytes(int(rate))}/s{left}"
        print(said, flush=True)


if __name__ == "__main__":
    sys.exit(main())
