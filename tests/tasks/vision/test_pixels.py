"""Images of every bit depth and colour mode: the right pixels from folder and pack, or a name.

Files are written by PIL where it can; TIFFs of the rarer kinds here, tag by tag.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpc_localsgd.commands.pack import main as pack_command
from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.torchvision_import import import_torchvision
from hpc_localsgd.tasks.vision.hdf5_reader import Pack
from hpc_localsgd.tasks.vision.image_store import Folder

GREY = np.arange(0, 256, 2, dtype=np.uint8).reshape(8, 16)  # every second level
COLOUR = np.stack([GREY, GREY[::-1], GREY.T.reshape(8, 16)], axis=-1)
SOME_ALPHA = np.where(GREY < 90, 0, 200).astype(np.uint8)
LOW = np.uint16(37)  # what the lower eight bits hold; the upper ones decide


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(
    pixels: np.ndarray, bits: int, kind: int = 1, photometric: int = 1, order: str = "<"
) -> bytes:
    """A TIFF of one strip: `kind` 1 is unsigned, 2 signed, 3 floats; photometric 0: 0 is white."""
    height, width, *channels = pixels.shape
    n = channels[0] if channels else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if bits == 12:  # two values in three bytes
        a, b = pixels.reshape(-1, 2).T.astype(np.uint16)
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    more = struct.pack(f"{order}{n}H", *[bits] * n) if n > 2 else b""
    first = 8 + len(more)
    inline = 8 if more else bits
    tags = [(256, width), (257, height), (258, inline), (259, 1), (262, photometric)]
    tags += [(273, first), (277, n), (278, height), (279, len(data)), (339, kind)]
    entries = b""
    for tag, value in tags:
        count, long = (n, bool(more)) if tag == 258 else (1, tag in (273, 279))
        shown = struct.pack(order + ("I" if long else "Hxx"), value)
        entries += struct.pack(order + "HHI", tag, 4 if long and tag != 258 else 3, count) + shown
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    pad = b"\0" * (len(data) % 2)
    return (
        mark
        + struct.pack(order + "I", first + len(data) + len(pad))
        + more
        + data
        + pad
        + directory
    )


def wide(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) << 8 | LOW


def as_grey(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels] * 3, axis=-1)


def palette(**options: Any) -> bytes:
    image = Image.new("P", (16, 8))
    image.putdata((GREY % 4).reshape(-1).tolist())
    image.putpalette([10, 20, 30, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    return saved(image, "PNG", **options)


PALETTE = np.array([[10, 20, 30], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)[GREY % 4]


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown by viewers after a quarter turn
    return saved(Image.fromarray(COLOUR), "PNG", exif=exif)


def of_two(kind: str, **options: Any) -> bytes:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    return saved(first, kind, save_all=True, append_images=[second], **options)


def pgm(maximum: int) -> bytes:
    values = (GREY.astype(np.float64) / 255 * maximum).round().astype(">u2")
    return b"P5 16 8 %d\n" % maximum + values.tobytes()


FRACTIONS = torch.linspace(0, 1, GREY.size).reshape(GREY.shape)


def in_fractions() -> np.ndarray:
    """torchvision's own conversion of floats."""
    import_torchvision()
    from torchvision.transforms.v2.functional import to_dtype

    return as_grey(to_dtype(FRACTIONS[None], torch.uint8, scale=True)[0].numpy())


def rgba(mode: str) -> bytes:
    image = Image.fromarray(np.dstack([COLOUR, SOME_ALPHA]))
    return saved(image if mode == "RGBA" else image.convert(mode), "PNG")


READ: dict[str, tuple[Callable[[], bytes], Any]] = {
    "1 bit": (
        lambda: saved(Image.fromarray(GREY > 99), "PNG"),
        as_grey((GREY > 99) * np.uint8(255)),
    ),
    "2 bits": (
        lambda: saved(Image.fromarray(GREY // 85 * 85).quantize(4), "PNG", bits=2),
        as_grey(GREY // 85 * 85),
    ),
    "L": (lambda: saved(Image.fromarray(GREY), "PNG"), as_grey(GREY)),
    "L of a TIFF where 0 is white": (lambda: tiff(GREY, 8, photometric=0), as_grey(255 - GREY)),
    "LA": (lambda: saved(Image.fromarray(np.dstack([GREY, SOME_ALPHA])), "PNG"), as_grey(GREY)),
    "P": (palette, PALETTE),
    "P with one transparent colour": (lambda: palette(transparency=1), PALETTE),
    "P with degrees of transparency": (lambda: palette(transparency=b"\0\x80\xff\1"), PALETTE),
    "RGB": (lambda: saved(Image.fromarray(COLOUR), "PNG"), COLOUR),
    "RGBA": (lambda: rgba("RGBA"), COLOUR),
    "RGBA of WebP": (
        lambda: saved(
            Image.fromarray(np.dstack([COLOUR, SOME_ALPHA])), "WEBP", lossless=True, exact=True
        ),
        COLOUR,
    ),
    "CMYK": (
        lambda: saved(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
        COLOUR,
    ),
    "I;16 of PNG": (lambda: saved(Image.fromarray(wide(GREY)), "PNG"), as_grey(GREY)),
    "I;16 of TIFF": (lambda: tiff(wide(GREY), 16), as_grey(GREY)),
    "I;16B of TIFF": (lambda: tiff(wide(GREY), 16, order=">"), as_grey(GREY)),
    "I;16 where 0 is white": (lambda: tiff(wide(GREY), 16, photometric=0), as_grey(255 - GREY)),
    "12 bits": (lambda: tiff(wide(GREY) >> 4, 12), as_grey(GREY)),
    "RGB of 16 bits": (lambda: tiff(wide(COLOUR), 16, photometric=2), COLOUR),
    "PGM to 65535": (lambda: pgm(65535), as_grey(GREY)),
    "PGM to 4095": (lambda: pgm(4095), as_grey(GREY)),
    "PGM to 255": (lambda: b"P5 16 8 255\n" + GREY.tobytes(), as_grey(GREY)),
    "F": (lambda: tiff(FRACTIONS.numpy(), 32, kind=3), in_fractions),
    "F where 0 is white": (
        lambda: tiff(1 - FRACTIONS.numpy(), 32, kind=3, photometric=0),
        lambda: 255 - as_grey(((1 - FRACTIONS.numpy()) * (256 - 1e-3)).astype(np.uint8)),
    ),
    "an orientation tag": (oriented, COLOUR),
    "an animated PNG": (lambda: of_two("PNG"), COLOUR),
    "an animated WebP": (lambda: of_two("WEBP", lossless=True), COLOUR),
    "two pages of a TIFF": (lambda: of_two("TIFF"), COLOUR),
}

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "32 bits": (lambda: tiff(GREY.astype(np.int32), 32, kind=2), "nothing says which number is"),
    "signed 16 bits": (
        lambda: tiff(GREY.astype(np.int16), 16, kind=2),
        "nothing says which number",
    ),
    "floats to 255": (lambda: tiff(GREY.astype(np.float32), 32, kind=3), "floats from 0 to 254"),
    "negative floats": (
        lambda: tiff(GREY.astype(np.float32) / 255 - 0.5, 32, kind=3),
        "floats from -0.5 to 0.496",
    ),
    "not a number": (
        lambda: tiff(np.full((8, 16), np.nan, np.float32), 32, kind=3),
        "floats from nan",
    ),
    "LAB": (lambda: tiff(COLOUR, 8, photometric=8), "is not a readable image"),
    "EPS": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 8\n%%EndComments\nshowpage\n",
        "is not an image that PIL can read",
    ),
    "half a file": (
        lambda: saved(Image.fromarray(COLOUR), "BMP")[:-200],
        "is not a readable image",
    ),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All files in one tree, named by their number: the suffix is not what decides."""
    root = tmp_path_factory.mktemp("pixels")
    for split in ("train", "val"):
        (root / "images" / split / "all").mkdir(parents=True)
        for i, (content, _) in enumerate([*READ.values(), *REFUSED.values()]):
            (root / "images" / split / "all" / f"{i:03}.jpg").write_bytes(content())
    assert pack_command([str(root / "images"), str(root / "images.h5")]) == 0
    return {"folder": Folder(root / "images"), "pack": Pack(root / "images.h5")}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["folder", "pack"])
@pytest.mark.parametrize("what", READ)
def test_an_image_is_what_its_file_says(stores: dict[str, Any], form: str, what: str) -> None:
    _, expected = READ[what]
    image = stores[form].image("train", list(READ).index(what))
    assert image.mode == "RGB"
    found = np.asarray(image)
    assert np.array_equal(found, expected() if callable(expected) else expected), found[0, :4]


@pytest.mark.parametrize("form", ["folder", "pack"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_shown_is_named(stores: dict[str, Any], form: str, what: str) -> None:
    i = len(READ) + list(REFUSED).index(what)
    with pytest.raises(DataError) as caught:
        stores[form].image("train", i)
    assert REFUSED[what][1] in str(caught.value) and f"all/{i:03}.jpg" in str(caught.value)


def test_a_jpeg_in_cmyk_as_adobe_writes_it(tmp_path: Path) -> None:
    """Photoshop stores the four channels turned round, and says so by a marker."""
    flat = np.full((16, 16, 4), (0, 200, 100, 0), np.uint8)
    plain = saved(Image.fromarray(flat, "CMYK"), "JPEG", quality=100)
    for split in ("train", "val"):
        (tmp_path / split / "all").mkdir(parents=True)
        (tmp_path / split / "all" / "0.jpg").write_bytes(plain)
    r, g, b = np.asarray(Folder(tmp_path).image("train", 0))[8, 8].astype(int)
    assert b"Adobe" in plain and abs(r - 255) < 3 and abs(g - 55) < 3 and abs(b - 155) < 3
