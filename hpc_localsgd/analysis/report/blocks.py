"""What a page says, as data, of which `templates/` makes HTML.

Texts are plain; what stands in backticks becomes code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, pale if it is quiet."""

    kind: ClassVar[str] = "paragraph"

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Grid:
    """A table, numbers aligned to the right.

    Attributes:
        header: Of the columns.
        rows: Cells.
        left: So many first columns are text, to the left.
        best: Rows in bold.
    """

    kind: ClassVar[str] = "table"

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    best: Collection[int] = ()


@dataclass(frozen=True)
class NamedValues:
    """A list of names and their values."""

    kind: ClassVar[str] = "facts"

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """A figure in the page.

    Attributes:
        uri: The figure itself, a data URI.
        width_px: At which it is shown.
        words: What it shows, for those who cannot see it.
        caption: Below it.
    """

    kind: ClassVar[str] = "picture"

    uri: str
    width_px: int
    words: str
    caption: str = ""


@dataclass(frozen=True)
class Details:
    """Text as it is, folded away below its summary."""

    kind: ClassVar[str] = "details"

    summary: str
    text: str


@dataclass(frozen=True)
class Papers:
    """References, each (text, address or "", what it was used for)."""

    kind: ClassVar[str] = "papers"

    papers: Sequence[tuple[str, str, str]]


Block: TypeAlias = Paragraph | Grid | NamedValues | Picture | Details | Papers


class Section:
    """A heading and what stands below it.

    Attributes:
        title: The heading.
        blocks: In order.
        anchor: To which the contents of a page lead.
    """

    def __init__(self, title: str, *blocks: Block | None) -> None:
        """Make a section of the blocks that there are."""
        self.title = title
        self.blocks = [block for block in blocks if block is not None]
        self.anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
