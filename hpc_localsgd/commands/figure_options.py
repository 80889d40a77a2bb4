"""Options of the commands that write figures: formats, and a width for a paper."""

from __future__ import annotations

import argparse
import re

from hpc_localsgd.analysis.formats import FORMATS, USUAL

NARROWEST_IN, WIDEST_IN = 1.5, 20.0
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # TeX's points


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--formats`` and ``--width`` to a command.

    Args:
        parser: Of the command.
    """
    about = f"of the figures beside the page: {', '.join(FORMATS)} (their numbers). Default: "
    parser.add_argument(
        "--formats",
        nargs="*",
        choices=FORMATS,
        default=list(USUAL),
        metavar="FORMAT",
        help=about + " ".join(USUAL),
    )
    parser.add_argument(
        "--width",
        type=inches,
        metavar="WIDTH",
        help="also write every panel alone, this wide, without a heading, as PDF and SVG into "
        "paper/: 3.25in, 8.2cm, 82mm or 235pt",
    )


def inches(text: str) -> float:
    """Return a width in inches.

    Args:
        text: A number and its unit.

    Raises:
        argparse.ArgumentTypeError: It is not a width, or not one that a figure can have.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(in|cm|mm|pt)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a width: write a number and in, cm, mm or pt, as in 3.25in"
        )
    width = float(found[1]) * _INCHES[found[2]]
    if not NARROWEST_IN <= width <= WIDEST_IN:
        raise argparse.ArgumentTypeError(
            f"{text} is {width:.3g} in; a panel is {NARROWEST_IN:g} to {WIDEST_IN:g} in wide"
        )
    return width
