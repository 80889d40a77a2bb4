"""End every given text file with exactly one newline (a pre-commit hook; standard library only)."""

from __future__ import annotations

import sys
from pathlib import Path


def ended(text: bytes) -> bytes:
    """Return `text` with exactly one newline at its end; an empty file stays empty."""
    stripped = text.rstrip(b"\r\n")
    return stripped + b"\n" if stripped else b""


def main(paths: list[str]) -> int:
    """Rewrite the files that need it; return 1 when one did, as pre-commit expects."""
    changed = [path for path in paths if ended(Path(path).read_bytes()) != Path(path).read_bytes()]
    for path in changed:
        Path(path).write_bytes(ended(Path(path).read_bytes()))
        print(f"fixed the end of {path}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
