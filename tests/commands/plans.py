"""Plans made in this process, alone."""

from __future__ import annotations

import json
from typing import Any

from hpc_localsgd.commands.plan import command
from hpc_localsgd.engine.launch import detect

NOWHERE = detect({})
SMALL = "--parameters 1000 --samples 640 --workers 4 --steps 64 --schedule every".split()


def printed(*options: str) -> str:
    return command.plan(options, NOWHERE)


def planned(*options: str) -> Any:
    return json.loads(printed("--json", *options))


def kinds(*options: str) -> list[str]:
    return [warning["kind"] for warning in planned(*options)["warnings"]]
