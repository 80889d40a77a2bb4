"""A host that is 127.0.1.1 by its own name is named, with the cure, before Gloo begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts
from launches import run_on
from launching import patient

SEVERAL = str(Path(__file__).parent.parent / "mpi" / "several_commands.py")
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
def test_the_doctor_says_so_and_a_run_is_refused(
    hosts: Hosts, tmp_path: Path, launcher: str
) -> None:
    commands = {"doctor": ["doctor"], "train": ["train", f"--out={tmp_path / 'run'}"]}
    for name, words in commands.items():
        (tmp_path / name).write_text("\n".join(words))
    files = [str(tmp_path / name) for name in commands]
    ended = run_on(hosts, launcher, BOTH, [SEVERAL, *files])
    assert all(outcome.status for outcome in ended)
    said = "".join(outcome.text for outcome in ended)
    assert " 2 asked (" in said and "-> repair the network first" in said
    doctor, _, refused = said.partition("hpc_localsgd.train: ")
    for text in (doctor, refused):
        assert "a calls itself 127.0.1.1, where no other host can connect" in text, said
        assert CURES[launcher] in text and "10.91.0.1 a" in text
    assert not (tmp_path / "run").exists()
