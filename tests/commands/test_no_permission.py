"""A folder of somebody else that one may not look into is named in one line, by every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DAC = "-dac_override,-dac_read_search"  # root's right to read everything, which others have not
DO_ALL = """
import json, sys
from hpc_localsgd.__main__ import main
for words in json.loads(sys.argv[1]):
    print("::", *words, file=sys.stderr)
    try:
        print("->", main(words), file=sys.stderr)
    except SystemExit as end:
        print("->", end.code, file=sys.stderr)
"""


def without_rights() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    setpriv = ("setpriv", f"--bounding-set={DAC}", f"--inh-caps={DAC}")
    if not shutil.which("setpriv") or subprocess.run([*setpriv, "true"]).returncode != 0:
        pytest.skip("root may read everywhere, and setpriv (package util-linux) cannot change it")
    return setpriv


@pytest.mark.slow
def test_what_one_may_not_look_into_is_named_in_a_line(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0)
    train = ["train", "--workers=2", "--steps=2", f"--out={tmp_path / 'mine'}"]
    commands = [
        [*train, f"--config={theirs}/config.yaml"],
        [*train, f"--init-from={theirs}"],
        [*train, "--task=imagenet", f"--task.data={theirs}"],
        [*train, "--task=mnist", f"--task.data={theirs}"],
        ["plan", "--workers=2", f"--fabric={theirs}/net.yaml"],
        *([command, str(theirs)] for command in ("sharpness", "export", "whatif")),
    ]
    argv = [*without_rights(), sys.executable, "-c", DO_ALL, json.dumps(commands)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    finally:
        theirs.chmod(0o700)
    assert done.returncode == 0, done.stderr[-3000:]
    for command in done.stderr.split(":: ")[1:]:
        _, said, status = command.splitlines()
        assert "Permission denied" in said and "cannot write" not in said and status == "-> 2"
