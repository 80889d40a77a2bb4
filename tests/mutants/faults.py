"""All small faults of a file: cosmic-ray's, and statements left out."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

from mutants.targets import ROOT

KEPT = ROOT / "build" / "mutants" / "faults"  # finding all takes minutes

# One replacement for each operator; cosmic-ray has all pairs, which mostly end in a TypeError.
_PAIRS = {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"}
_COMPARISONS = {"Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Lt_Gt", "Gt_Lt"}
_COMPARISONS |= {"LtE_Gt", "GtE_Lt", "Is_IsNot", "IsNot_Is"}
_OTHERS = {
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
}


class DropStatement(Operator):
    """`a = b`, `a += b` or a call that stands by itself becomes `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        inside = getattr(node.parent, "type", "") == "simple_stmt"
        if inside and node.type in ("expr_stmt", "atom_expr", "del_stmt"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        left_out = get_ast("pass\n").children[0].children[0]
        left_out.prefix = node.get_first_leaf().prefix
        return left_out

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


@dataclass(frozen=True)
class Fault:
    """A file as it would be.

    Attributes:
        path: The file.
        text: With the fault.
        line: Where it is.
        was: That line.
        now: That line with the fault.
        name: Of a fault that is in our own list.
    """

    path: Path
    text: str = field(repr=False)
    line: int
    was: str
    now: str
    name: str = ""

    @property
    def module(self) -> str:
        """Name to import."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it even where lines have moved: file, before, after."""
        return self.path.relative_to(ROOT / "hpc_localsgd").as_posix(), self.was, self.now

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    def __str__(self) -> str:
        said = f"{self.place}: {self.was}  ->  {self.now}"
        return f"{self.name}: {said}" if self.name else said


def operators() -> list[Operator]:
    """What makes faults."""
    provider = OperatorProvider()
    names = [
        name
        for name in provider
        if name in _OTHERS
        or name.removeprefix("ReplaceBinaryOperator_") in _PAIRS
        or name.removeprefix("ReplaceComparisonOperator_") in _COMPARISONS
    ]
    return [*(provider[name]() for name in names), DropStatement()]


@cache
def faults_of(path: Path) -> list[Fault]:
    """Every fault of a file that is another program, each once; found anew where the file is."""
    source = path.read_text()
    digest = hashlib.sha256((source + Path(__file__).read_text()).encode()).hexdigest()[:16]
    kept = KEPT / f"{digest}.json.gz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(gzip.compress(json.dumps(changed(source)).encode()))
        partial.replace(kept)
    texts = json.loads(gzip.decompress(kept.read_bytes()))
    found = [between(path, source, text) for text in texts]
    return sorted(found, key=lambda fault: (fault.line, fault.now))


def changed(source: str) -> list[str]:
    """The texts of all faults of a text."""
    tree, meanings, found = pickle.dumps(get_ast(source)), {meaning(source)}, []
    for operator in operators():
        for i in range(10_000):
            visitor = MutationVisitor(i, operator)
            text = visitor.walk(pickle.loads(tree)).get_code()
            if not visitor.mutation_applied:
                break
            try:
                new = meaning(text)
            except SyntaxError:
                continue
            if new not in meanings:
                meanings.add(new)
                found.append(text)
    return found


def between(path: Path, source: str, text: str, name: str = "") -> Fault:
    """The fault that turns one text into the other."""
    before, after = source.splitlines(), text.splitlines()
    pairs = zip(before, after, strict=False)
    line = next(n for n, (a, b) in enumerate(pairs) if a != b)
    return Fault(path, text, line + 1, before[line].strip(), after[line].strip(), name)


class _Bare(ast.NodeTransformer):
    """Leaves out what no sound program feels.

    Annotations, docstrings, imports and variables for types, `__all__`, the deletion of arguments
    that are not used, and whether zip checks equal lengths.
    """

    def visit_Delete(self, node: ast.Delete) -> ast.AST:
        return ast.Pass() if all(isinstance(name, ast.Name) for name in node.targets) else node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if getattr(node.func, "id", "") == "zip":
            node.keywords = []
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        exported = any(getattr(name, "id", "") == "__all__" for name in node.targets)
        for_types = getattr(getattr(node.value, "func", None), "id", "") == "TypeVar"
        return ast.Pass() if exported or for_types else node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        unused = not_used(node)
        self.generic_visit(node)
        node.returns = None
        with_default = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        node.args.defaults = [
            ast.Constant(None) if arg.arg in unused else default
            for arg, default in zip(with_default, node.args.defaults, strict=True)
        ]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        for_types = any(getattr(n, "id", "") == "TYPE_CHECKING" for n in ast.walk(node.test))
        return ast.Pass() if for_types else node


def not_used(node: ast.FunctionDef) -> set[str]:
    """The arguments that a function does not read."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    return {arg.arg for arg in node.args.args} - {
        n.id for n in names if isinstance(n.ctx, ast.Load)
    }


def meaning(source: str) -> str:
    """The program without what it does not feel; equal for two texts that do the same.

    Raises:
        SyntaxError: It is none.
    """
    return ast.dump(_Bare().visit(ast.parse(source)))
