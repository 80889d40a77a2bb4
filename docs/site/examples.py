"""Docstrings as the site shows them: examples as code, facts of a method as paragraphs."""

from __future__ import annotations

import re
from typing import Any

import griffe

# `Source: ...` and its like, with the indented lines that go on: griffe takes those for a box whose
# title is the first line.
SAID = re.compile(
    r"^(Source|Here differs|Sends|Equals|Gap|Costs|Needs|Not finite): (.+(?:\n[ \t]+\S.*)*)",
    re.MULTILINE,
)


class Examples(griffe.Extension):
    """Extension that changes docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename `Example:` for griffe, and give each thing said a paragraph of its own."""
        if obj.docstring is not None:
            text = obj.docstring.value.replace("Example:\n", "Examples:\n")
            obj.docstring.value = SAID.sub(_paragraph, text)


def _paragraph(found: re.Match[str]) -> str:
    words = " ".join(found[2].split())
    return f"\n**{found[1]}:** {words}\n"
