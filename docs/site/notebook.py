"""A notebook as a page: its text, its code, and the outputs that it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def page_of(notebook: str) -> str:
    """Return Markdown of a notebook's JSON; figures are a part of the page."""
    cells = json.loads(notebook)["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield f"```\n{''.join(output['text']).rstrip()}\n```"
        else:
            picture = output["data"]["image/png"].strip()
            yield f'<img src="data:image/png;base64,{picture}" alt="What the cell above draws">'
