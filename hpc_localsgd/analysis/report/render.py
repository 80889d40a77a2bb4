"""Makes pages of HTML from `templates/`. No script in them, and nothing from outside the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis.style import BLUE, GREY, INK, MADE_BY, PALE, RED

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
COLOURS = SimpleNamespace(ink=INK, grey=GREY, pale=PALE, blue=BLUE, red=RED)


def render(template: str, **given: Any) -> str:
    """Return a page.

    Args:
        template: Name of a file in `templates/`.
        given: What it says.
    """
    return _environment().get_template(template).render(**{"again_s": 0, **given})


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(colours=COLOURS, made_by=MADE_BY)
    return made
