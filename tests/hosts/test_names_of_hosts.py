"""A host that is 127.0.1.1 by its own name is named, with the cure, before Gloo begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts
from launches import run_on
from launching import TRAIN, patient

BOTH = {"a": 1, "b": 1}
CURES = {
    "torchrun": "export GLOO_SOCKET_IFNAME=eth0 on every host; or in /etc/hosts of a write: ",
    "gloo": "in /etc/hosts of a write: 10.91.0.1 a; or leave out --gloo",
}

pytestmark = pytest.mark.timeout(patient(300))


@pytest.fixture(scope="module", autouse=True)
def debian(hosts: Hosts) -> Iterator[None]:
    with hosts["a"].names("127.0.1.1 a"), hosts["b"].names("127.0.1.1 b"):
        yield


@pytest.mark.parametrize("launcher", CURES)
def test_a_run_is_refused(hosts: Hosts, tmp_path: Path, launcher: str) -> None:
    ended = run_on(hosts, launcher, BOTH, [*TRAIN, f"--out={tmp_path / 'run'}"])
    assert all(outcome.status for outcome in ended)
    said = "".join(outcome.text for outcome in ended)
    assert "a calls itself 127.0.1.1, where no other host can connect" in said, said
    assert CURES[launcher] in said and "10.91.0.1 a" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launcher", CURES)
def test_the_doctor_says_so(hosts: Hosts, launcher: str) -> None:
    ended = run_on(hosts, launcher, BOTH, ["-m", "hpc_localsgd", "doctor"])
    assert all(outcome.status for outcome in ended)
    said = "".join(outcome.text for outcome in ended)
    assert "a calls itself 127.0.1.1, where no other host can connect" in said, said
    assert CURES[launcher] in said
    assert " 2 asked (" in said and "-> repair the network first" in said
