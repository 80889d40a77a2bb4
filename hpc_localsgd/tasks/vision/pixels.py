"""From the bytes of an image file to its pixels: RGB, eight bits a channel.

As torchvision's loader (`Image.open(...).convert("RGB")`) where that is right: transparency is
dropped, of an animation the first frame counts, orientation tags and colour profiles are not
applied. That call clips wider values at 255, though, so a photograph of 16 bits comes out white
and one of floats in [0, 1] black. Here:

    16 bits     the upper eight, as PIL itself does for colour images of 16 bits
    12 bits     the upper eight of the twelve
    floats      fractions of white, as torchvision's transforms take them; refused outside [0, 1]
    32 bits     refused: the file does not say which number is white
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# By content, whatever the suffix says. No EPS, for one: PIL hands it to an interpreter.
FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
EIGHT_BITS = ("1", "L", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# By way of another mode: colours that are multiplied by their transparency, and palettes, of whose
# transparency PIL warns at every image.
BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "P": "RGBA"}
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and a value of the second
ONE = 256 - 1e-3  # torchvision's: [0, 1] into 256 intervals of equal length


def decode(content: bytes) -> Image:
    """Decode the bytes of a file to RGB, eight bits a channel.

    Raises:
        UnidentifiedImageError: Of no format that is read here.
        ValueError: Its pixels mean nothing in RGB; the text says why.
        Exception: Whatever else PIL raises for a file that is damaged.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=_formats()) as image:
        if image.mode in EIGHT_BITS:
            return image.convert("RGB")
        if image.mode in BY_WAY_OF:
            return image.convert(BY_WAY_OF[image.mode]).convert("RGB")
        return Image.fromarray(_eight_bits(image)).convert("RGB")


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this PIL was built with: it fails on a name it does not know."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _eight_bits(image: Image) -> np.ndarray:
    """Return a grey image of more bits, as uint8 [height, width]."""
    bits = _bits(image)
    values = np.asarray(image)
    if image.mode == "F":
        values = _fractions(values)
    elif bits is not None:
        values = (values >> (bits - 8)).astype(np.uint8)
    else:
        raise ValueError(
            f"its pixels are of PIL's mode {image.mode!r}, and nothing says which number is white: "
            "store 8 or 16 bits a channel"
        )
    return 255 - values if _is_negative(image) else values


def _fractions(values: np.ndarray) -> np.ndarray:
    """Return floats in [0, 1] as uint8; `not` holds for NaN too."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"its pixels are floats from {values.min():g} to {values.max():g}, and 0 to 1 are "
            "black to white: store 8 or 16 bits a channel, or fractions"
        )
    return (values * ONE).astype(np.uint8)


def _bits(image: Image) -> int | None:
    """Return the bits of a grey value; None if unknown."""
    if image.format == "TIFF":
        said = image.tag_v2.get(BITS_PER_SAMPLE, (0,))[0]  # type: ignore[attr-defined]
        return said if image.mode.startswith("I;16") and said in (12, 16) else None
    # PIL reads a PGM of 16 bits as mode I, scaled from its own maximum to 65535.
    return 16 if image.mode.startswith("I;16") or image.format == "PPM" else None


def _is_negative(image: Image) -> bool:
    """Return whether 0 is white; PIL inverts such images of up to eight bits, but not these."""
    if image.format != "TIFF":
        return False
    return bool(image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO)  # type: ignore[attr-defined]
