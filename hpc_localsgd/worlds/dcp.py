"""Files in the format of torch.distributed.checkpoint, which FSDP's users load from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def write_dcp(folder: Path, named: dict[str, torch.Tensor]) -> None:
    """Write tensors as a distributed checkpoint of one process.

    Args:
        folder: Made if missing; what is in it is replaced.
        named: Tensors by name.

    Raises:
        OSError: It cannot be written.
    """
    from torch.distributed.checkpoint import FileSystemWriter, save
    from torch.distributed.checkpoint.api import CheckpointException

    (folder / ".metadata").unlink(missing_ok=True)  # a kill leaves nothing that loads as a mixture
    try:
        save(named, storage_writer=FileSystemWriter(folder, overwrite=True), no_dist=True)
    except CheckpointException as error:  # of the ranks, which is one
        for why, _ in error.failures.values():
            if isinstance(why, OSError):
                raise OSError(why.errno, why.strerror, str(folder)) from error
        raise
