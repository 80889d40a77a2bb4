"""Pages of the site that are no file of docs/, and links between all of them.

A page of the repository links to what lies beside it there. Here such a link leads to the page
that the file has become, to the API page of a module, or to a copy of the file.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # a hook is no part of a package

from notebook import page_of  # noqa: E402

ROOT = Path(__file__).parents[2]
# File of the repository -> page of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/analysis.ipynb": "notebook.md",
    "slurm/README.md": "slurm.md",
    "benchmarks/README.md": "reports/index.md",
    "benchmarks/configs/README.md": "reports/recipes.md",
}
# Folders of the package that have a page, what one meets first coming first.
API = (
    "attach",
    "algorithms",
    "schedules",
    "topology",
    "compressors",
    "gradients",
    "tasks",
    "worlds",
    "trajectory",
    "cost",
    "curvature",
    "run/probes",
    "analysis/slow_sde",
)
# Those of which only what the folder itself hands out is for users.
DOORS = ("attach",)
# Reports that come first in the navigation; the others follow by name.
FIRST = ("comm_vs_accuracy", "reproduce", "alternatives", "text", "step_overhead", "first_gpu")
WHOLE_LINK = re.compile(r"\[([^\[\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
LINK = re.compile(r"(?<=\]\()([^)\s#]+)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def sources() -> dict[str, str]:
    """Map every page's file in the repository to its page."""
    pages = {path.relative_to(ROOT).as_posix(): path.name for path in ROOT.glob("docs/*.md")}
    reports = sorted(ROOT.glob("benchmarks/reports/*.md"))
    pages |= {path.relative_to(ROOT).as_posix(): f"reports/{path.name}" for path in reports}
    return pages | {path: page for path, page in OUTSIDE.items() if (ROOT / path).exists()}


def on_config(config: Any) -> Any:
    """Put every report and every API page into the navigation."""
    reports = {page for page in sources().values() if page.startswith("reports/")}
    first = ["reports/index.md", *(f"reports/{name}.md" for name in FIRST)]
    whole = {
        "Reports": [*first, *sorted(reports - set(first))],
        "API": ["api/index.md", *({_name(folder): _api(folder)} for folder in API)],
    }
    for entry in config["nav"]:
        entry |= {title: whole[title] for title in entry if title in whole}
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and a copy of every other file that one of them links to."""
    pages = sources()
    for source, page in pages.items():
        if source.endswith(".ipynb"):
            content = page_of((ROOT / source).read_text(encoding="utf-8"))
            files.append(File.generated(config, page, content=content))
        elif files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
        for link in LINK.findall(CODE.sub("", (ROOT / source).read_text())):
            target = _target(source, link)
            copy = _page_of(target, pages)
            if copy.startswith("files/") and files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, abs_src_path=str(ROOT / target)))
    for folder in API:
        files.append(File.generated(config, _api(folder), content=_modules(folder)))
    files.append(File.generated(config, "api/index.md", content=_first_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let the links of a page lead to what their files have become."""
    pages = sources()
    of = {page: source for source, page in pages.items()}
    source = of.get(page.file.src_uri)
    if source is None:
        return markdown
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # its tab has one page; the lines of the README are long
    here = posixpath.dirname(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        there = _page_of(_target(source, found.group()), pages)
        return posixpath.relpath(there, here or ".") if there else found.group()

    def bare(found: re.Match[str]) -> str:
        target = _target(source, found[2])
        folder = bool(target) and (ROOT / target).is_dir()
        if folder and not _page_of(target, pages):
            return found[1]
        if found[1] in pages or found[1] == posixpath.basename(target) and target in pages:
            return f"[{_title(ROOT / target)}]({found[2]}{found[3] or ''})"
        return found.group()

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    text = (each if each.startswith("```") else WHOLE_LINK.sub(bare, each) for each in parts)
    return "".join(each if each.startswith("```") else LINK.sub(led, each) for each in text)


def _target(source: str, link: str) -> str:
    """Return the file of the repository that a link leads to; empty for the web."""
    if "://" in link or link.startswith("mailto:"):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _page_of(target: str, pages: dict[str, str]) -> str:
    """Return the page, or the copy, of a file of the repository; empty where it has none."""
    if target in pages or not target:
        return pages.get(target, "")
    if (ROOT / target).is_dir():
        inside = target.removeprefix("hpc_localsgd/")
        return pages.get(f"{target}/README.md", _api(inside) if inside in API else "")
    folder = posixpath.dirname(target).removeprefix("hpc_localsgd/")
    return _api(folder) if folder in API and target.endswith(".py") else f"files/{target}"


def _title(page: Path) -> str:
    """Return the first heading: a link that is labelled with a file shows it."""
    found = re.search(r"^# (.+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.name


def _api(folder: str) -> str:
    return f"api/{folder.replace('/', '.')}.md"


def _name(folder: str) -> str:
    return f"hpc_localsgd.{folder.replace('/', '.')}"


def _modules(folder: str) -> str:
    """Return the API page of a folder: what it says of itself, then each of its files."""
    name = _name(folder)
    inside = () if folder in DOORS else (ROOT / "hpc_localsgd" / folder).glob("*.py")
    files = sorted(inside)
    names = [name, *(f"{name}.{file.stem}" for file in files if file.stem != "__init__")]
    bare = "\n    options: {show_root_heading: false}"
    first, *rest = (f"::: {each}" for each in names)
    return "\n\n".join([f"# {name}", first + bare, *rest])


def _first_page() -> str:
    listed = "\n".join(f"- [{_name(f)}]({posixpath.basename(_api(f))})" for f in API)
    own = "\n\n".join(f"::: hpc_localsgd.{name}" for name in ("types", "errors", "loop"))
    return f"# API\n\nFrom the docstrings of the package.\n\n{listed}\n\n{own}"
