"""How parameters become bytes on disk: bfloat16 packing, and the filters of compression.

NumPy has no bfloat16, so it is stored as ``uint16`` (the upper half of a float32) and the dataset
says so in its attribute ``encoding``. Compression beyond HDF5's own gzip comes from `hdf5plugin`,
which is imported only when it is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_localsgd.trajectory.schema import SNAPSHOT_DTYPES, TrajectoryError

PLUGINS = {"zstd": "Zstd", "lz4": "LZ4", "blosc": "Blosc", "bitshuffle": "Bitshuffle"}


def disk_dtype(encoding: str) -> np.dtype:
    """Return the NumPy dtype that holds `encoding` on disk.

    Args:
        encoding: A key of `SNAPSHOT_DTYPES`.

    Raises:
        TrajectoryError: If the encoding is unknown.
    """
    if encoding not in SNAPSHOT_DTYPES:
        raise TrajectoryError(
            f"snapshot dtype {encoding!r} is unknown; write one of {', '.join(SNAPSHOT_DTYPES)}."
        )
    return np.dtype("uint16" if encoding == "bfloat16" else encoding)


def encode(x: Any, encoding: str) -> np.ndarray:
    """Copy `x` into its form on disk, rounding to nearest even.

    Always a copy: training keeps changing the parameters while the row waits for the next flush.

    Args:
        x: ``[..., P]``, a NumPy array or anything `numpy.asarray` takes without a copy to a device.
        encoding: A key of `SNAPSHOT_DTYPES`. ``float16`` ends at 65504; beyond it is infinity.

    Returns:
        ``[..., P]`` of `disk_dtype(encoding)`.
    """
    if encoding == "bfloat16":
        return _pack_bfloat16(np.asarray(x, dtype=np.float32))
    with np.errstate(over="ignore"):
        return np.array(x, dtype=disk_dtype(encoding), order="C", copy=True)


def decode(x: np.ndarray, encoding: str) -> np.ndarray:
    """Return numbers as floats again; bfloat16 becomes float32, the rest stays as stored.

    Args:
        x: ``[..., P]`` as read from the file.
        encoding: The dataset's attribute ``encoding``.
    """
    if encoding == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x


def _pack_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x).view(np.uint32)
    # Adding 0x7fff plus the lowest kept bit rounds to nearest, ties to even.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A NaN whose payload sits in the lower half would round to infinity: keep it a quiet NaN.
    return np.where(np.isnan(x), (bits >> 16) | 0x0040, rounded).astype(np.uint16)


def filters(compression: str | None) -> dict[str, Any]:
    """Return keyword arguments for `h5py.Group.create_dataset`.

    Args:
        compression: None, ``gzip``, or a key of `PLUGINS` (needs the package hdf5plugin).

    Raises:
        TrajectoryError: If the name is unknown or hdf5plugin is missing.
    """
    if compression is None:
        return {}
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    if compression not in PLUGINS:
        known = ", ".join(["gzip", *PLUGINS])
        raise TrajectoryError(f"compression {compression!r} is unknown; write one of {known}.")
    return dict(getattr(load_plugin(compression), PLUGINS[compression])())


def load_plugin(compression: str) -> Any:
    """Import hdf5plugin, which registers its filters with HDF5.

    Args:
        compression: Name of the filter that is wanted, for the message.

    Raises:
        TrajectoryError: If hdf5plugin is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise TrajectoryError(
            f"snapshots compressed with {compression} need the package hdf5plugin:"
            " pip install hdf5plugin"
        ) from error
    return hdf5plugin
