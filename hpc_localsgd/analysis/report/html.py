"""The few pieces of HTML a report is made of. No script, nothing from outside the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

from hpc_localsgd.analysis.style import BLUE, GREY, INK, PALE, RED

Source: TypeAlias = tuple[str, int]  # of a figure: its data URI, and its width in pixels

LOOK = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: #fff; color: {INK}; line-height: 1.5; font-size: 15px;
  font-family: "DejaVu Sans", "Segoe UI", system-ui, -apple-system, Roboto, sans-serif; }}
main {{ max-width: 1000px; margin: 0 auto; padding: 40px 28px 60px; }}
h1 {{ font-size: 25px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 17px; margin: 46px 0 10px; padding-top: 16px; border-top: 1px solid {PALE}; }}
p {{ margin: 6px 0; max-width: 76ch; }}
a {{ color: {BLUE}; text-decoration: none; }} a:hover {{ text-decoration: underline; }}
.quiet, figcaption, footer {{ color: {GREY}; }}
.status {{ display: inline-block; font-size: 12px; font-weight: 400; padding: 1px 9px;
  margin-left: 8px; border-radius: 10px; border: 1px solid currentColor; color: {GREY};
  vertical-align: 4px; }}
.status.complete {{ color: {BLUE}; }} .status.diverged, .status.running {{ color: {RED}; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr));
  gap: 18px 26px; margin: 26px 0 10px; }}
.tile b {{ display: block; font-size: 22px; line-height: 1.2; font-weight: 700; }}
.tile span {{ display: block; font-size: 12.5px; color: {GREY}; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13.5px; margin: 10px 0; }}
th {{ text-align: left; font-weight: 400; color: {GREY}; }}
th, td {{ padding: 5px 22px 5px 0; border-bottom: 1px solid {PALE}; vertical-align: top; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.scroll td:first-child {{ white-space: nowrap; }} tr.best td {{ font-weight: 700; }}
.facts th {{ white-space: nowrap; }} .facts td {{ overflow-wrap: anywhere; }}
.notes {{ border-left: 3px solid #DDAA33; padding: 2px 0 2px 16px; margin: 20px 0;
  font-size: 14px; }}
.notes p {{ margin: 5px 0; }}
figure {{ margin: 14px 0 6px; }}
figure .scroll img {{ display: block; width: 100%; min-width: 640px; }}
figcaption {{ font-size: 13px; margin-top: 4px; max-width: 86ch; }}
code, pre {{ font-size: 12.5px;
  font-family: "DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace; }}
code {{ overflow-wrap: anywhere; }} code.short {{ white-space: nowrap; }}
pre {{ background: #f7f8f9; padding: 12px 14px; overflow-x: auto; line-height: 1.45; }}
summary {{ cursor: pointer; color: {BLUE}; font-size: 14px; margin: 8px 0; }}
ol.papers {{ padding-left: 22px; font-size: 14px; }} ol.papers li {{ margin: 5px 0; }}
footer {{ margin-top: 56px; font-size: 12.5px; border-top: 1px solid {PALE}; padding-top: 12px; }}
@media (max-width: 560px) {{ main {{ padding: 24px 16px 40px; }} h1 {{ font-size: 21px; }}
  th, td {{ padding-right: 14px; }} .tile b {{ font-size: 19px; }} }}
@media print {{ main {{ max-width: none; padding: 0; }} h2 {{ break-after: avoid; }}
  figure {{ break-inside: avoid; }} details {{ display: none; }} }}
""".strip()


def document(title: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{LOOK}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, anchor: str = "") -> str:
    """Return the heading of a section, from plain text."""
    return f"<h2{f' id={chr(34)}{escape(anchor)}{chr(34)}' if anchor else ''}>{escape(text)}</h2>"


def paragraph(text: str, quiet: bool = False) -> str:
    """Return a paragraph of plain text; what stands in backticks becomes code."""
    return f"<p{' class=quiet' if quiet else ''}>{inline(text)}</p>"


def inline(text: str) -> str:
    """Return plain text as HTML; what stands in backticks becomes code."""
    parts = escape(text).split("`")
    return "".join(_code(part) if i % 2 else part for i, part in enumerate(parts))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    best: Iterable[int] = (),
) -> str:
    """Return a table of plain texts, numbers aligned to the right.

    Args:
        header: Of the columns.
        rows: Cells.
        left: So many first columns are text, to the left.
        best: Rows in bold.
    """
    bold = set(best)
    head = "".join(_cell("th", text, i >= left) for i, text in enumerate(header))
    lines = [
        f"<tr{' class=best' if i in bold else ''}>"
        + "".join(_cell("td", text, j >= left) for j, text in enumerate(row))
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return f"<div class=scroll><table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table></div>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and their values."""
    lines = (f"<tr><th>{escape(name)}</th><td>{inline(value)}</td></tr>" for name, value in rows)
    return "<table class=facts>\n" + "\n".join(lines) + "\n</table>"


def tiles(shown: Iterable[tuple[str, str]]) -> str:
    """Return tiles: large numbers with small words below them."""
    each = (f"<div class=tile><b>{escape(n)}</b><span>{escape(w)}</span></div>" for n, w in shown)
    return "<div class=tiles>\n" + "\n".join(each) + "\n</div>"


def notes(lines: Sequence[str]) -> str:
    """Return the notes that a reader should see first; "" if there are none."""
    return f"<div class=notes>{''.join(paragraph(n) for n in lines)}</div>" if lines else ""


def picture(source: Source, words: str, caption: str = "") -> str:
    """Return a figure from a data URI.

    Args:
        source: The URI, and the width at which it is shown.
        words: What it shows, for those who cannot see it.
        caption: Below it.
    """
    below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
    uri, width_px = source
    image = f'<img src="{uri}" alt="{escape(words)}" style="max-width:{width_px}px">'
    return f"<figure><div class=scroll>{image}</div>{below}</figure>"


def details(summary: str, text: str) -> str:
    """Return text as it is, folded away below its summary."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _code(text: str) -> str:
    """Return options as code that is not broken at its hyphens."""
    return f"<code{' class=short' if len(text) < 30 else ''}>{text}</code>"


def _cell(kind: str, text: str, number: bool) -> str:
    return f"<{kind}{' class=n' if number else ''}>{inline(text)}</{kind}>"
