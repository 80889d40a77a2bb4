"""Text from files of unknown origin: made safe to show, and YAML of bounded size."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

MOST_BYTES = 1 << 17  # PyYAML reads about as much in a second
MOST_VALUES = 20_000  # of a configuration, aliases written out; one of a run has about a hundred
_DEEPEST = 50
_WORD = r"[A-Za-z0-9_/][A-Za-z0-9_./%]*"
_WORDS = re.compile(rf"{_WORD}(?: {_WORD})*")


def readable(text: str, keep: str = "") -> str:
    r"""Escape control characters in the text, so that no terminal obeys them.

    Args:
        text: Of a file, or a name.
        keep: Control characters that stay, such as "\n\t".
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else _escaped(c)
        for c in text
    )


def _escaped(c: str) -> str:
    return c.encode("unicode_escape", "surrogatepass").decode("ascii")


def is_plain(text: str) -> bool:
    """Check whether a text is one scalar in YAML, without reading it as YAML, which takes longer.

    So it is where it has no more than letters, digits, ``_``, ``.``, ``/``, ``%`` and blanks.
    """
    return len(text) <= MOST_BYTES and _WORDS.fullmatch(text) is not None


def load_yaml(text: str, loader: Any = None) -> Any:
    """Return the values of a YAML text, refusing aliases that multiply beyond measure.

    Args:
        text: YAML.
        loader: Of PyYAML; one that makes plain values only, which is the default.

    Raises:
        yaml.YAMLError: It is not YAML, too long, too deep or too large, or has control characters.
    """
    import yaml

    check_yaml(text)
    try:
        return yaml.load(text, Loader=loader or yaml.SafeLoader)
    except (ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        if isinstance(error, yaml.YAMLError):
            raise
        raise yaml.YAMLError(f"not a configuration: {error}") from error


def check_yaml(text: str) -> None:
    """Refuse a text with too many values to process, before they are made.

    Raises:
        yaml.YAMLError: It is not YAML, too long, too deep or too large, or has control characters.
    """
    import yaml

    if is_plain(text):
        return
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"{len(text):,} characters are too many for a configuration")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _count(node, {}, ())
    except RecursionError as error:
        raise yaml.YAMLError("not a configuration: it is nested too deeply") from error


def _count(node: Any, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the values in a node with its aliases expanded, without expanding them."""
    import yaml

    if id(node) in known:
        return known[id(node)]
    if id(node) in above or len(above) > _DEEPEST:
        raise yaml.YAMLError("not a configuration: it contains itself, or is nested too deeply")
    if isinstance(node, yaml.ScalarNode):
        if readable(node.value, "\n\t") != node.value:
            raise yaml.YAMLError(f"control characters in {readable(node.value)[:60]!r}")
        return 1
    inside = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else [pair])]
    total = 1 + sum(_count(each, known, (*above, id(node))) for each in inside)
    if total > MOST_VALUES:
        raise yaml.YAMLError("not a configuration: its aliases stand for too many values")
    known[id(node)] = total
    return total
