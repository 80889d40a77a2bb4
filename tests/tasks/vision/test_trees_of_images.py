"""Which files of a tree are images and of which class: the same from the folder and when packed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hpc_localsgd.commands.pack import main as pack_command
from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.tasks.torchvision_import import import_torchvision
from hpc_localsgd.tasks.vision.hdf5_reader import Pack
from hpc_localsgd.tasks.vision.image_store import Folder, ImageStore

NESTED = ("ant/s/0.png", "ant/t/0.png", "ant/9.PNG", "ant/s-1/0.png", "bee/u/0.png")


def lay(root: Path, *names: str) -> Path:
    """A tree with these images in both splits, each of a colour of its own."""
    for split in ("train", "val"):
        for i, name in enumerate(names):
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(path)
    return root


def both(root: Path, out: Path) -> list[ImageStore]:
    assert pack_command([str(root), str(out)]) == 0
    return [Folder(root), Pack(out)]


def refusal(root: Path) -> str:
    """What both say: the folder, and `pack` of it."""
    with pytest.raises(ConfigurationError) as caught:
        Folder(root)
    return str(caught.value)


def test_images_in_sub_folders_keep_their_class_and_are_told_apart(tmp_path: Path) -> None:
    root, out = lay(tmp_path / "images", *NESTED), tmp_path / "images.h5"
    stores = both(root, out)
    import_torchvision()
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(root / "train"))
    for store in stores:
        assert list(store.classes) == theirs.classes
        assert store.labels["train"].tolist() == theirs.targets
        for i, (path, _) in enumerate(theirs.samples):
            assert store.encoded("train", i) == Path(path).read_bytes()
            assert str(Path(path).relative_to(root / "train")) in store.name("train", i)


def test_a_folder_moved_to_another_class_is_another_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = lay(tmp_path / "images", *NESTED), tmp_path / "images.h5"
    both(root, out)
    (root / "train/ant/t").rename(root / "train/bee/t")
    assert pack_command([str(root), str(out)]) == 2
    assert "was begun with other images" in capsys.readouterr().err


def test_what_tools_leave_behind_is_neither_class_nor_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = lay(tmp_path / "clean", "ant/0.png", "ant/s/1.png", "bee/0.png")
    littered = Path(shutil.copytree(clean, tmp_path / "littered"))
    junk = (".ipynb_checkpoints/0.png", "ant/.ipynb_checkpoints/0.png", "@eaDir/0.png/SYNO.jpg")
    lay(littered, *junk, "bee/__MACOSX/0.png", "$RECYCLE.BIN/0.png", "ant/s/.hidden/0.png")
    for name in ("ant/._0.png", "ant/.DS_Store", "bee/Thumbs.db", "bee/desktop.ini", ".DS_Store"):
        (littered / "train" / name).write_bytes(b"Mac OS X        ")
    (littered / "train/loose.png").write_bytes(b"of no class")
    expected = both(clean, tmp_path / "clean.h5")[0]
    capsys.readouterr()
    for store in both(littered, tmp_path / "littered.h5"):
        assert store.classes == expected.classes == ("ant", "bee")
        for split in ("train", "test"):
            assert np.array_equal(store.labels[split], expected.labels[split])
            contents = [store.encoded(split, i) for i in range(3)]
            assert contents == [expected.encoded(split, i) for i in range(3)]
    said = capsys.readouterr().out
    assert "6 train" not in said and "3 train, 3 test images of 2 classes" in said
    assert "left out, being neither image nor class: train/$RECYCLE.BIN and 17 more" in said
    assert "--task.classes 2" in said


def test_a_hidden_folder_above_the_images_is_the_users(tmp_path: Path) -> None:
    assert Folder(lay(tmp_path / ".cache" / "images", "ant/0.png")).classes == ("ant",)


def test_a_pack_of_an_older_version_with_a_hidden_class_is_refused(tmp_path: Path) -> None:
    both(lay(tmp_path / "images", "ant/0.png"), tmp_path / "images.h5")
    with h5py.File(tmp_path / "images.h5", "r+") as file:
        file.attrs["classes"] = '[".ipynb_checkpoints", "ant"]'
    with pytest.raises(ConfigurationError, match=r"\.ipynb_checkpoints as a class.*again"):
        Pack(tmp_path / "images.h5")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("mkdir train/cat", "the class folder {}/train/cat holds no image"),
        ("rm val/ant/0.png", "the class folder {}/val/ant holds no image"),
        ("text train/bee/0.png", "1 other files, such as bee/0.txt"),
        ("mv train/bee", "the class folder {}/train/bee is missing: {}/val has it"),
        ("loop train/ant/again", "{}/train/ant/again is a link to a folder that it lies in"),
        ("pipe train/ant/0.jpg", "{}/train/ant/0.jpg is neither a file nor a folder"),
        ("flat val", "{}/val has no class folders (2 images lie in it directly)"),
        ("rm -r val", "there is no folder {}/val"),
    ],
)
def test_a_tree_that_means_nothing_is_refused_by_folder_and_pack_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, said: str
) -> None:
    root = lay(tmp_path / "images", "ant/0.png", "bee/0.png")
    what, _, where = harm.rpartition(" ")
    path = root / where
    match what:
        case "mkdir":
            path.mkdir()
        case "rm":
            path.unlink()
        case "rm -r":
            shutil.rmtree(path)
        case "text":
            path.rename(path.with_suffix(".txt"))
        case "mv":
            path.rename(path.with_name("wasp"))
        case "loop":
            path.symlink_to(root / "train")
        case "pipe":
            os.mkfifo(path)
        case "flat":
            for name in ("ant", "bee"):
                (path / name / "0.png").rename(path / f"{name}.png")
                (path / name).rmdir()
    assert said.replace("{}", str(root)) in refusal(root)
    assert pack_command([str(root), str(tmp_path / "x.h5")]) == 2
    error = capsys.readouterr().err
    assert said.replace("{}", str(root)) in error and "Traceback" not in error
    assert not list(tmp_path.glob("x.h5*"))


def test_a_link_to_nothing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = lay(tmp_path / "images", "ant/0.png")
    (root / "train/ant/1.png").symlink_to(tmp_path / "gone.png")
    assert pack_command([str(root), str(tmp_path / "x.h5")]) == 2
    assert f"{root}/train/ant/1.png cannot be read: No such file" in capsys.readouterr().err


def test_names_in_another_encoding_train_and_cannot_be_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = lay(tmp_path / "images", "ant/0.png", "bee/0.png")
    name = os.fsencode(root / "train/ant") + b"/\xe9t\xe9.png"  # Latin-1
    os.rename(root / "train/ant/0.png", name)
    assert Folder(root).image("train", 0).size == (8, 8)
    assert pack_command([str(root), str(tmp_path / "x.h5")]) == 2
    assert "is not in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["ant/9.png", "ant/s/9.png"])
@pytest.mark.parametrize("what", ["/dev/zero", "/dev/stdin", "pipe", "link to a pipe"])
def test_a_link_to_a_device_or_a_pipe_is_refused_and_never_read(
    tmp_path: Path, where: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = lay(tmp_path / "images", *NESTED)
    place = root / "train" / where
    if what == "pipe":
        os.mkfifo(place)
    elif what == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to(tmp_path / "pipe")
    else:
        place.symlink_to(what)
    assert f"{place} is neither a file nor a folder" in refusal(root)
    assert pack_command([str(root), str(tmp_path / "out.h5")]) == 2
    assert f"{place} is neither a file nor a folder" in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


def test_what_an_image_has_become_since_it_was_listed_is_seen_when_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = lay(tmp_path / "images", *NESTED)
    store, first = Folder(root), root / "train/ant/9.PNG"
    first.unlink()
    os.mkfifo(first)
    with pytest.raises(DataError, match="a device or a pipe, which may have no end"):
        store.encoded("train", 0)
    first.unlink()
    with first.open("wb") as file:
        file.truncate(10**13)  # sparse: it takes no space
    with pytest.raises(DataError, match="it has 10,000,000,000,000 bytes, and at most"):
        store.encoded("train", 0)
    assert pack_command([str(root), str(tmp_path / "out.h5")]) == 2
    assert f"{first} cannot be read: it has 10,000,000,000,000 bytes" in capsys.readouterr().err
