"""Commands that reach a host in namespaces, for launchers: `on HOST COMMAND...`, and one like ssh.

A folder holds all there is of the hosts: bin/ these commands, own/ where each mounts a folder for
its temporary files, pid-HOST the number of a process in its namespaces, down-HOST while its power
is cut.
"""

from __future__ import annotations

from pathlib import Path

# Enters a host: `on NAME COMMAND...`, in the folder it is called from.
ON = """#!/bin/sh
name=$1; shift
export TMPDIR={folder}/own PATH={folder}/bin:$PATH PRTE_MCA_plm_ssh_agent={folder}/bin/ssh
exec nsenter -t "$(cat {folder}/pid-$name)" -n -u -m \\
    sh -c 'cd "$1" && shift && exec "$@"' - "$PWD" "$@"
"""
# Stands for ssh: `ssh [options] HOST [options] COMMAND...`; a shell there reads the command.
SSH = """#!/bin/bash
options() {{
    taken=0
    while [[ ${{1-}} == -* ]]; do
        words=1; [[ $1 == -[opil] ]] && words=2
        shift $words; taken=$((taken + words))
    done
}}
options "$@"; shift $taken; name=$1; shift
options "$@"; shift $taken; {folder}/bin/on "$name" bash -c "$*"
status=$?
# Nobody tells ssh that a host has gone: it stays until who called it has gone too.
while [[ -e {folder}/down-$name ]] && kill -0 $PPID; do sleep 0.2; done 2>/dev/null
exit $status
"""


def write_commands(folder: Path) -> None:
    """Write them into bin/ of the folder of some hosts."""
    (folder / "bin").mkdir()
    for name, text in (("on", ON), ("ssh", SSH)):
        path = folder / "bin" / name
        path.write_text(text.format(folder=folder))
        path.chmod(0o755)
