"""A packed file from somebody else: it leads nowhere, and takes no more memory than it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.vision.hdf5_reader import FORMAT, VERSION, Pack, lay_down


def packed(path: Path) -> Path:
    """Two images of two bytes in either split."""
    with h5py.File(path, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, classes='["ant", "bee"]', complete=True)
        for group in ("train", "val"):
            lay_down(file, group, ["ant/0.png", "bee/0.png"], [0, 1], [2, 2])
            file[group]["bytes"][:] = 7
    return path


def instead(name: str, link: object) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return harm


def elsewhere(file: h5py.File) -> None:
    del file["train/bytes"]
    file.create_dataset("train/bytes", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    del file["train/label"]
    layout = h5py.VirtualLayout((2,), "i8")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (2,))
    file.create_virtual_dataset("train/label", layout)


def endless(file: h5py.File) -> None:
    del file["train/label"]
    file.create_dataset("train/label", (10**13,), "i8", chunks=(1000,))


HARMS = {
    "external link": (instead("train", h5py.ExternalLink("/etc/passwd", "/")), "is a link to"),
    "soft link": (instead("val/label", h5py.SoftLink("/train/label")), "val/label is a link to"),
    "external storage": (elsewhere, "train/bytes lie in another file"),
    "virtual": (virtual, "train/label lie in another file"),
    "size": (endless, "train/label declares more numbers"),
    "places": (instead("train/offset", np.array([0, 10**15, 4])), "contradict each other"),
    "past the end": (instead("train/offset", np.array([0, 2, 10**15])), "contradict each other"),
    "labels": (instead("val/label", np.array([0, -1])), "labels of its val images contradict"),
    "fewer": (instead("val/crc", np.zeros(1, np.uint32)), "contradict each other"),
}


def test_a_sound_pack_is_opened(tmp_path: Path) -> None:
    assert Pack(packed(tmp_path / "images.h5")).labels["train"].tolist() == [0, 1]


def test_a_damaged_pack_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.h5")
    whole = path.read_bytes()
    for part in (b"TREE", b"SNOD", b"HEAP", b"GCOL"):  # what HDF5 finds its objects by
        path.write_bytes(whole.replace(part, b"XXXX"))
        with pytest.raises(ConfigurationError, match="damaged"):
            Pack(path)


@pytest.mark.parametrize("harm", HARMS)
def test_a_strange_pack_is_refused_in_a_sentence(harm: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "images.h5")
    spoil, said = HARMS[harm]
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ConfigurationError, match=said):
        Pack(path)
