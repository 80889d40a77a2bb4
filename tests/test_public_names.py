"""The names of the package itself: all of them by a star, none of them loaded before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import hpc_localsgd

STAR = """
import gc, sys
gc.disable()  # what is imported stays
import hpc_localsgd
assert not {"torch", "numpy"} & set(sys.modules)
before = set(globals())
from hpc_localsgd import *
print(*sorted(set(globals()) - before - {"before"}))
assert callable(attach) and attach is hpc_localsgd.attach and "torch" in sys.modules
assert all(hasattr(hpc_localsgd, name) for name in dir(hpc_localsgd))
assert not hasattr(hpc_localsgd, "nothing")
"""


def test_a_star_gives_the_public_names_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STAR], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.split() == sorted(hpc_localsgd.__all__)
    assert {"attach", "LocalSGD", "every", "post_local"} <= set(hpc_localsgd.__all__)


def test_type_checkers_know_the_same_names() -> None:
    tree = ast.parse(Path(hpc_localsgd.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    named = [
        a.asname for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names
    ]
    assert sorted(map(str, named)) == sorted(hpc_localsgd.__all__)
    assert set(hpc_localsgd.__all__) <= set(dir(hpc_localsgd))
