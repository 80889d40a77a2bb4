"""The site, when it is built, loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?(https?:|//)|<link[^>]+(?:stylesheet|preconnect)[^>]+href=\"?(https?:|//)"
)


def on_post_build(config: Any) -> None:
    """Refuse a page with a script, style, font or image of another host."""
    for page in Path(config["site_dir"]).rglob("*.html"):
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page} loads something from elsewhere: {found.group()}")
