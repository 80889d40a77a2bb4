"""What commands write into the folder of a run beside its record: it goes when the run goes.

Figures, pages and curvature of a run that was replaced would pass for those of the new run.
Removed is only what the package itself wrote: names of its own in the folder of a run, and in
`report/`, where a user may keep notes, only files that bear its mark.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hpc_localsgd.analysis.figures import FIGURES
from hpc_localsgd.analysis.formats import PAPER
from hpc_localsgd.analysis.own_files import REPORT, is_ours
from hpc_localsgd.commands.replaceable import hdf5_attributes, is_landscape, is_model
from hpc_localsgd.commands.resuming_from_mean import NEW, OTHERS
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint.listing import FOLDER, all_folders, there
from hpc_localsgd.run.final_model import FILE_NAME

MADE = (FILE_NAME, "sharpness.h5", "tensorboard/events.out.tfevents.*")
_CHECKPOINT = re.compile(f"((finished|making|damaged)-)?{FOLDER.pattern}")


def check_folder(out: Path) -> None:
    """Check that what a new run replaces in its folder was written by one before it.

    Raises:
        ConfigurationError: Names what was not.
    """
    if found := next(_strangers(out), None):
        raise ConfigurationError(
            f"--out {out}: {found.relative_to(out)} there is not of a run of this package, and "
            "would be replaced: give another --out, or move it away"
        )


def _strangers(out: Path) -> Iterator[Path]:
    """Yield what is in the places of a run's files, and no run has written."""
    record, model, checkpoints = out / "trajectory.h5", out / FILE_NAME, out / "checkpoints"
    attributes = hdf5_attributes(record)  # None: damaged perhaps, which is to be replaced
    if attributes is not None and "schema_version" not in attributes:
        yield record
    if model.exists() and not is_model(model):
        yield model
    for place in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if not (place.name.startswith(".") or _CHECKPOINT.fullmatch(place.name)):
            yield place
    if not record.exists():
        yield from (file for file in _figures(out) if not is_ours(file))


def _figures(out: Path) -> Iterator[Path]:
    drawn = (out / f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf"))
    return filter(Path.exists, drawn)


def remove_checkpoints(out: Path) -> None:
    """Remove the checkpoints in the folder of a run; a link to another disk stays, empty.

    Raises:
        ConfigurationError: One stays, which the new run could be resumed from.
    """
    for folder in (out / name for name in ("checkpoints", NEW, OTHERS)):
        for place in folder.glob("*") if folder.is_symlink() else (folder,):
            shutil.rmtree(place, ignore_errors=True)  # NFS keeps names of what is open
    if left := [folder for folder in all_folders(out / "checkpoints") if there(folder)]:
        raise ConfigurationError(
            f"--out {out}: {left[0].relative_to(out)} of the run before cannot be removed, and "
            "--resume would continue from it: remove it, or give another --out"
        )


def remove_results(out: Path) -> None:
    """Remove the model, figures, pages and measured curvature from the folder of a run.

    Raises:
        OSError: One cannot be removed.
    """
    for file in list(_results(out)):
        file.unlink()
    for pages in (out / REPORT / PAPER, out / REPORT):
        if pages.is_dir() and not any(pages.iterdir()):
            pages.rmdir()


def _results(out: Path) -> Iterator[Path]:
    yield from _figures(out)
    for pattern in MADE:
        yield from out.glob(pattern)
    yield from (file for file in out.glob("landscape-*.h5") if is_landscape(file))
    drawn = [out.glob("landscape-*"), (out / REPORT).glob("*"), (out / REPORT / PAPER).glob("*")]
    yield from (file for file in chain(*drawn) if is_ours(file))
