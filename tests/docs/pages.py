"""What the pages show: command lines, options, names; read from the Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("slurm/*.md")])
PAGES.remove(ROOT / "CHANGELOG.md")  # what was true then
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:hpc-localsgd |-m hpc_localsgd(?= )|-m hpc_localsgd(?=\.train))(.*)")
END = re.compile(r"\s{2,}#.*|\s[|;&]+\s.*|\.\.\..*")


@dataclass(frozen=True)
class Shown:
    """A command line on a page: `command` is a key of `COMMANDS`, `words` what follows it."""

    page: str
    command: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.command} {' '.join(self.words)}"

    @property
    def options(self) -> list[str]:
        """The options it names, as they are in a parser."""
        return [named(word) for word in self.words if re.fullmatch(r"--[a-z]\S*", word)]


def named(word: str) -> str:
    """`--batch_per_worker` for `--batch-per-worker=16`."""
    return "--" + word[2:].partition("=")[0].replace("-", "_")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; "" for those without one."""
    return [code for of, code in FENCE.findall(page.read_text()) if of == language]


def spans(page: Path) -> list[str]:
    """What stands between backticks within lines."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def lines() -> Iterator[tuple[str, str]]:
    """Every line of a block without a language, and every span, with the name of its page."""
    for page in PAGES:
        shown = [block.replace("\\\n", " ") for block in blocks(page, "")]
        for line in [*"\n".join(shown).splitlines(), *spans(page)]:
            yield page.relative_to(ROOT).as_posix(), line


def commands() -> list[Shown]:
    """The command lines of this package, on all pages."""
    found = []
    for page, line in lines():
        if match := OURS.search(line):
            typed = END.sub("", match[1]).replace(".train", "train")
            first, *words = shlex.split(typed) or [""]
            if "--" in words:  # behind it are options of the training
                found.append(Shown(page, "train", tuple(words[words.index("--") + 1 :])))
                words = words[: words.index("--")]
            if re.fullmatch("[a-z]+", first):
                found.append(Shown(page, first, tuple(words)))
    return list(dict.fromkeys(found))


def options() -> list[tuple[str, str]]:
    """The options that stand by themselves between backticks, with their pages."""
    alone = (
        (page, named(word))
        for page, line in lines()
        if line.startswith("--")
        for word in re.findall(r"(?<!\S)--[a-z][\w.=-]*", line)
    )
    return list(dict.fromkeys(alone))


def defaults() -> list[tuple[str, str, str]]:
    """(page, option, default) of tables headed so, and of every "`--option` (default `value`)"."""
    found = []
    for page in PAGES:
        text, name = page.read_text(), page.relative_to(ROOT).as_posix()
        for table in re.findall(r"^\| option \| default \|\n\|.*\n((?:\|.*\n)+)", text, re.M):
            rows = re.findall(r"^\| `(--\S+)` \| `(.+?)` \|$", table, re.M)
            assert len(rows) == table.count("\n"), f"{name}: a row that is not read"
            found += [(name, *row) for row in rows]
        found += [(name, *row) for row in re.findall(r"`(--[a-z-]+)` \(default `(.+?)`\)", text)]
    return found
