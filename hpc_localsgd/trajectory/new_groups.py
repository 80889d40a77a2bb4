"""Groups that a file does not have yet: complete on the disk before the file refers to them.

HDF5 writes what it has changed in the order of addresses, and what a file begins with stands first:
a process that is killed in a flush would leave a name without its object, and a file that does not
open.
"""

from __future__ import annotations

import h5py

from hpc_localsgd.trajectory import diskspace


class NewGroups:
    """Groups that are made apart from a file, and linked into it together."""

    def __init__(self, file: h5py.File) -> None:
        """Begin with none.

        Args:
            file: The open file.
        """
        self._file = file
        self._apart: dict[str, h5py.Group] = {}

    def group(self, path: str) -> h5py.Group:
        """Return the group at a path; where the file has none, it is made apart from it.

        Args:
            path: Names from the root on, with ``/`` between them.
        """
        names = path.strip("/").split("/")
        for i in range(1, len(names) + 1):
            top = "/".join(names[:i])
            if top not in self._file:
                break
        else:
            return self._file[path]
        if top not in self._apart:
            self._apart[top] = self._file.create_group(None)
        inner = "/".join(names[i:])
        return self._apart[top].require_group(inner) if inner else self._apart[top]

    def link(self) -> None:
        """Put all of it on the disk, and only then into the file.

        Raises:
            OSError: There is no space.
        """
        if self._apart:
            diskspace.flush(self._file)
            diskspace.reserve(self._file, 0)  # HDF5 has cut off what it had not used
        for path, group in self._apart.items():
            self._file[path] = group
