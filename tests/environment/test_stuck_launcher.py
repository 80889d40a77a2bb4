"""What is said about a launcher that may outlive its ranks."""

from __future__ import annotations

import socket

from hpc_localsgd.environment.stuck_launcher import about_the_launcher


def test_the_nearest_mpirun_is_named_and_nothing_else_is() -> None:
    above = [(7, ["sh", "-c", "mpirun"]), (8, ["/opt/bin/prterun", "-np", "2"]), (9, ["mpirun"])]
    assert f"`kill -9 8` on {socket.gethostname()} ends it" in about_the_launcher(above)
    assert about_the_launcher([(7, ["torchrun", "mpirun"]), (8, ["prted"]), (9, [])]) == ""
