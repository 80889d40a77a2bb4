"""YAML as it was typed: text reaches the option that has to interpret it.

YAML 1.1 reads `10:00` as the number 600, `010` as 8, `no` as false, `2026-01-01` as a date and
`1e-3` as text, before it is known what the value is for. Here every value stays the text that
was typed, in files as on the command line, and the type of its option decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import yaml
from jsonargparse._loaders_dumpers import get_yaml_default_loader  # no public name

from hpc_localsgd.trajectory.safe_text import is_plain

MOST_ALIASES = 16
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)$")
_NUMBER = re.compile(
    r"(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_own: ContextVar[bool] = ContextVar("_own", default=False)


class AsTyped(yaml.SafeLoader):
    """YAML loader that keeps scalars as text and refuses repeated keys and empty values."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {"<": [(f"{_TAG}merge", re.compile("<<$"))]}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a part of the document.

        Raises:
            yaml.YAMLError: There are too many aliases, which could make it grow without bound.
        """
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > MOST_ALIASES:
                raise _fault(f"there are more than {MOST_ALIASES} aliases", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, checked.

        Raises:
            yaml.YAMLError: A key stands twice, or has no value.
        """
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise _fault(f"{name} stands twice, in line {lines[name]} too: keep one", key)
            lines[name] = line
            if isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None:
                raise _fault(f"{name} is left empty: give it a value, or take the line out", key)
        return dict(super().construct_mapping(node, deep))


def _fault(text: str, node: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=text, problem_mark=node.start_mark)


def load(text: str) -> Any:
    """Load mappings, lists and text from YAML.

    Raises:
        yaml.YAMLError: It is no YAML, or nests deeper than anything that has a meaning.
    """
    if _own.get():
        return yaml.safe_load(text)
    if is_plain(text):
        return text
    try:
        return yaml.load(text, Loader=AsTyped)  # noqa: S506, a safe loader
    except RecursionError as error:
        raise yaml.YAMLError("it nests too deep") from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:  # of a tag, as `!!int x`
        raise yaml.YAMLError(f"a value is not what its tag says: {error}") from error


@contextmanager
def of_its_own() -> Iterator[None]:
    """Resolve numbers in the texts that are loaded meanwhile: YAML wrote them, not a user."""
    before = _own.set(True)
    try:
        yield
    finally:
        _own.reset(before)


def read_numbers_as_typed() -> None:
    """Make jsonargparse read a number only from decimal digits, where an option wants a number."""
    loader = get_yaml_default_loader()
    kept = {
        first: [(tag, form) for tag, form in forms if tag not in (f"{_TAG}int", f"{_TAG}float")]
        for first, forms in loader.yaml_implicit_resolvers.items()
    }
    loader.yaml_implicit_resolvers = kept
    loader.add_implicit_resolver(f"{_TAG}int", _WHOLE, list("-+0123456789"))
    loader.add_implicit_resolver(f"{_TAG}float", _NUMBER, list("-+.0123456789"))
