"""What rich lays out, as text of lines that are no wider than a page."""

from __future__ import annotations

from rich.console import Console, RenderableType

WIDTH = 100  # columns of a page, of which a narrow terminal has room for a part


def page_width(terminal: int | None) -> int:
    """Return the columns of a page on a terminal of so many; None: where the output is none."""
    return WIDTH if terminal is None else min(terminal, WIDTH)


def as_text(renderable: RenderableType, width: int, coloured: bool = False) -> str:
    """Lay out in lines of `width` columns, without spaces at their ends or empty lines below.

    Words in brackets are words: folders may be named so.
    """
    console = Console(
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=coloured,
        no_color=not coloured,
    )
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())
