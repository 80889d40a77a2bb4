"""The floors of the house: a file imports its own floor or lower, and only the door sees all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "hpc_localsgd"

# Parts that share a floor do not see each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("types", ""),  # "" is the package itself, which has the version
    ("trajectory",),
    ("schedules", "topology"),
    ("cost",),
    ("tasks", "curvature"),
    ("worlds",),
    ("compressors",),
    ("algorithms", "gradients"),
    ("engine",),
    ("run",),
    ("loop", "attach"),
)
SEES_ITS_FLOOR = {"curvature"}
OTHER_TOWER = {
    "analysis": {"", "errors", "types", "trajectory", "schedules", "topology", "cost"}
    | {"tasks", "curvature"}
}
DOOR = {"commands", "environment", "train", "__main__"}
FLOOR = {part: i for i, parts in enumerate(FLOORS) for part in parts}

TRANSPORTS = ("mpi4py", "horovod", "torch.distributed")
MAY_TALK = {"worlds", "environment"}
WITHOUT_TORCH = {"errors", "types", "trajectory", "schedules", "topology", "cost"}
TOO_HEAVY_TO_PLAN_AND_READ = ("torch", "torchvision", *TRANSPORTS)


@dataclass(frozen=True)
class Import:
    """One import: what, on which line, inside a function, or for the type checker only."""

    module: str
    line: int
    in_function: bool
    for_types: bool


def imports(source: str) -> Iterator[Import]:
    """Every import of a module; `from a import b` counts as `a.b`, which also names `a`."""
    yield from _walk(ast.parse(source), in_function=False, for_types=False)


def _walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, in_function, for_types)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                module = f"{'.' * child.level}{child.module or ''}.{alias.name}"
                yield Import(module, child.lineno, in_function, for_types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.body, []), in_function, for_types=True)
            yield from _walk(ast.Module(child.orelse, []), in_function, for_types)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, in_function or function, for_types)


def part_of(module: str) -> str | None:
    """`cost` for `hpc_localsgd.cost.advice`; "" for the package itself; None for strangers."""
    first, *rest = module.split(".")
    if first != PACKAGE:
        return None
    known = {*FLOOR, *OTHER_TOWER, *DOOR}
    return rest[0] if rest and (rest[0] in known or not rest[0].startswith("__")) else ""


def may_see(here: str, there: str) -> bool:
    """Whether a part of the house may import another, be it for the type checker alone."""
    if here in DOOR or here in ("", there):  # the package itself names what is public
        return True
    if here in OTHER_TOWER:
        return there in OTHER_TOWER[here]
    if there not in FLOOR:
        return False  # nobody but the door looks at the door or at the other tower
    same = FLOOR[here] == FLOOR[there] and here in SEES_ITS_FLOOR
    return FLOOR[there] < FLOOR[here] or same


def begins(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def faults(here: str, source: str) -> list[str]:
    """What a module of the part `here` does that the house forbids."""
    found = []
    for item in imports(source):
        there = part_of(item.module)
        if item.module.startswith("."):
            found.append(f"line {item.line}: a relative import hides the floor")
        if there is not None and not may_see(here, there):
            found.append(f"line {item.line}: {here} must not see {there} ({item.module})")
        if begins(item.module, TRANSPORTS) and not item.for_types:
            if here not in MAY_TALK:
                found.append(f"line {item.line}: {item.module} belongs to a world")
            elif not item.in_function:
                found.append(f"line {item.line}: {item.module} must be imported in a function")
        if here in WITHOUT_TORCH and begins(item.module, ("torch",)) and not item.for_types:
            found.append(f"line {item.line}: {here} works without torch")
    return found


def modules() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def part_of_file(path: Path) -> str:
    part = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("here", sorted({part_of_file(path) for path in modules()}))
def test_the_floors_hold(here: str) -> None:
    assert here in {*FLOOR, *OTHER_TOWER, *DOOR}, f"{here} has no floor in this test: give it one"
    files = [path for path in modules() if part_of_file(path) == here]
    found = {name_of(path): faults(here, path.read_text(encoding="utf-8")) for path in files}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("here", "line", "complaint"),
    [
        ("cost", "import hpc_localsgd.worlds.base", "must not see worlds"),
        ("topology", "from hpc_localsgd import tasks", "must not see tasks"),
        ("trajectory", "from hpc_localsgd.cost import preview", "must not see cost"),
        ("types", "from hpc_localsgd.schedules.rates import Rate", "must not see schedules"),
        ("tasks", "def f():\n    from hpc_localsgd.worlds import base", "must not see worlds"),
        ("worlds", "from hpc_localsgd.algorithms.base import Algorithm", "must not see algorithms"),
        ("run", "from hpc_localsgd.loop import Run", "must not see loop"),
        ("run", "if TYPE_CHECKING:\n    import hpc_localsgd.loop", "must not see loop"),
        ("worlds", "if TYPE_CHECKING:\n    import hpc_localsgd.engine", "must not see engine"),
        ("loop", "import hpc_localsgd.commands", "must not see commands"),
        ("loop", "if TYPE_CHECKING:\n    import hpc_localsgd.commands", "must not see commands"),
        ("algorithms", "from hpc_localsgd.analysis import style", "must not see analysis"),
        ("analysis", "from hpc_localsgd.worlds.base import World", "must not see worlds"),
        ("analysis", "if TYPE_CHECKING:\n    import hpc_localsgd.loop", "must not see loop"),
        ("worlds", "from . import base", "relative import"),
        ("worlds", "from mpi4py import MPI", "imported in a function"),
        ("worlds", "class W:\n    import horovod.torch", "imported in a function"),
        ("worlds", "from torch import distributed", "imported in a function"),
        ("train", "def f():\n    import horovod.torch as hvd", "belongs to a world"),
        ("schedules", "import torch", "without torch"),
        ("trajectory", "def f():\n    import torch.nn", "without torch"),
        ("trajectory", "if not TYPE_CHECKING:\n    pass\nelse:\n    import torch", "without torch"),
    ],
)
def test_a_module_that_breaks_a_rule_is_caught(here: str, line: str, complaint: str) -> None:
    assert any(complaint in fault for fault in faults(here, line)), faults(here, line)


@pytest.mark.parametrize(
    ("here", "line"),
    [
        ("loop", "from hpc_localsgd.schedules.local_steps import every"),
        ("cost", "if TYPE_CHECKING:\n    import torch"),
        ("worlds", "def f():\n    from mpi4py import MPI"),
        ("analysis", "from hpc_localsgd.trajectory import Trajectory"),
        ("train", "from hpc_localsgd.analysis.figures import draw_run"),
        ("run", "if TYPE_CHECKING:\n    from hpc_localsgd.engine.position import Run"),
        ("trajectory", "from hpc_localsgd import __version__"),
    ],
)
def test_a_module_that_keeps_the_rules_is_let_through(here: str, line: str) -> None:
    assert faults(here, line) == []


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Files (module -> source) that import each other, for types or in functions too."""
    graph = nx.DiGraph()
    for name, source in sources.items():
        for item in imports(source):
            module = item.module
            while module and module not in sources:
                module = module.rpartition(".")[0]
            if module not in ("", PACKAGE, name):
                graph.add_edge(name, module)
    return [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]


def test_no_two_files_import_each_other() -> None:
    sources = {name_of(p).removesuffix(".__init__"): p.read_text("utf-8") for p in modules()}
    assert circles(sources) == []


def test_a_circle_is_caught() -> None:
    a, b = "from p.b import x", "if TYPE_CHECKING:\n    from p.c import y"
    assert circles({"p.a": a, "p.b": b, "p.c": "def f():\n    import p.a"}) == [
        ["p.a", "p.b", "p.c"]
    ]
    assert circles({"p.a": a, "p.b": b, "p.c": ""}) == []


def classes(source: str) -> list[str]:
    """Public classes of a module, those inside others left out."""
    nodes = ast.parse(source).body
    return [n.name for n in nodes if isinstance(n, ast.ClassDef) and n.name[0] != "_"]


def twice(sources: Iterable[str]) -> set[str]:
    """Names that several classes of the package have."""
    counts = Counter(name for source in sources for name in classes(source))
    return {name for name, count in counts.items() if count > 1}


def test_no_two_classes_have_one_name() -> None:
    assert twice(path.read_text("utf-8") for path in modules()) == set()


def test_a_name_that_is_taken_is_caught() -> None:
    assert twice(["class A: pass", "class B:\n    class A: pass", "class _A: pass"]) == set()
    assert twice(["class A: pass", "if x:\n    pass\nclass A(B): pass"]) == {"A"}


MOST_LINES = 300  # of a file
MOST_LINES_OF_A_FUNCTION = 60  # without its docstring


def lengths(source: str) -> dict[str, int]:
    """Lines of a module, under "", and of each function in it, without its docstring."""
    found = {"": source.count("\n")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            said = ast.get_docstring(node) is not None
            words = (first.end_lineno or 0) - first.lineno + 1 if said else 0
            found[node.name] = (node.end_lineno or 0) - node.lineno + 1 - words
    return found


def too_long(source: str) -> list[str]:
    """Names of a module's functions that have too many lines, "" for the module."""
    most = {"": MOST_LINES}
    return [n for n, k in lengths(source).items() if k > most.get(n, MOST_LINES_OF_A_FUNCTION)]


def beside() -> list[Path]:
    """Scripts that are no part of the package, and tests."""
    folders = ("benchmarks", "examples", "slurm", "tests")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_files_and_functions_are_read_at_a_glance() -> None:
    assert len(beside()) > 50
    found = {name_of(p): too_long(p.read_text("utf-8")) for p in (*modules(), *beside())}
    assert {name: long for name, long in found.items() if long} == {}


def test_a_long_file_and_a_long_function_are_caught() -> None:
    body = "    x = 1\n"
    assert too_long("def f():\n" + 59 * body) == [] and too_long(301 * "\n") == [""]
    assert too_long("class C:\n  def f(self):\n" + 60 * body) == ["f"]
    assert too_long('def f():\n    """' + 99 * "\n" + '    """\n' + body) == []


def test_planning_and_reading_load_neither_torch_nor_a_transport() -> None:
    names = [name_of(path) for path in modules() if part_of_file(path) in WITHOUT_TORCH]
    assert len(names) > 10
    code = (
        f"import sys; from importlib import import_module\n"
        f"for name in {names!r}: import_module(name.removesuffix('.__init__'))\n"
        f"print([m for m in {TOO_HEAVY_TO_PLAN_AND_READ!r} if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert said.stdout.strip() == "[]", said.stdout + said.stderr[-2000:]
