"""`Example:` of a docstring becomes the `Examples:` that griffe shows as code."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Extension that renames the section before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
