"""`torchrun --nnodes 1:2`: agents join and leave, and the run goes on among those there are."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launching import TRAIN, Job, started, torchrun, until
from moved_runs import check_same_run

from hpc_localsgd.run.checkpoint.listing import last_complete, number
from hpc_localsgd.run.stopping import REGROUPED, STOPPED, asked_by, to_launcher
from hpc_localsgd.train import main

HERE = Path(__file__).parent
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4", "--workers=4"]
RUN += ["--dtype=float64", "--rate=constant", "--schedule=every", "--schedule.steps=4"]
RUN += ["--steps=480", "--rate.lr=0.01", "--spread-every=8", "--evaluate-every=80"]
RUN += ["--checkpoint-every=4", "--figures=false", "--resume=auto"]
SETTINGS = {
    "PYTHONPATH": str(HERE),
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",  # two agents count as two hosts
    "SLOW_S": "0.4",
}


class Agents:
    """Agents of one run, and how far it is."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "run"
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._port = probe.getsockname()[1]

    @contextmanager
    def one(self) -> Iterator[Job]:
        """One more agent, with one rank."""
        words = ["--nnodes=1:2", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=elastic"]
        words += [f"--rdzv-endpoint=localhost:{self._port}"]
        words += ["--rdzv-conf=last_call_timeout=3,keep_alive_interval=1"]
        program, _, *rest = torchrun(1)  # without --standalone
        given = [*TRAIN, *RUN, "--world=torch", f"--out={self.out}"]
        with started([program, *words, *rest], given) as job:
            yield job

    def goes_on(self, ranks: int, job: Job) -> None:
        """Wait until so many ranks have made steps and kept them."""
        before = self.step()

        def kept() -> bool:
            assert job.process.poll() is None, job.wait().text[-3000:]
            found = last_complete(self.out)
            return found is not None and found[1] == ranks and number(found[0]) > before

        until(kept, 60, f"{ranks} rank(s) go on from step {before}")

    def step(self) -> int:
        """Return the step of the last checkpoint."""
        found = last_complete(self.out)
        return number(found[0]) if found else 0


@pytest.mark.launched
def test_it_grows_and_shrinks_and_ends_where_the_simulated_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first agent that leaves was asked to, the second is killed with its rank."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "arrived").mkdir()
    monkeypatch.setenv("ARRIVES", f"4 {tmp_path / 'arrived'}")
    monkeypatch.setenv("HURRY", str(tmp_path / "hurry"))
    agents = Agents(tmp_path)
    with agents.one() as first:
        agents.goes_on(1, first)
        with agents.one() as second:
            agents.goes_on(2, first)
            second.process.send_signal(signal.SIGTERM)
            second.wait()
        agents.goes_on(1, first)
        with agents.one() as third:
            agents.goes_on(2, first)
            third.kill()
        (tmp_path / "hurry").touch()
        first.wait().succeeded()
    alone = tmp_path / "alone"
    assert main([*RUN, "--world=simulated", f"--out={alone}"]) == 0
    check_same_run(agents.out, alone, launches=5)


@pytest.mark.parametrize(
    ("number", "restarts", "agents", "expected"),
    [
        (signal.SIGTERM, "3", "2", REGROUPED),
        (signal.SIGTERM, "3", "1", STOPPED),  # no other agent looks at it
        (signal.SIGTERM, "0", "2", STOPPED),  # nor starts anything again
        (signal.SIGUSR2, "3", "2", STOPPED),  # which agents do not send
    ],
)
def test_what_an_agent_asks_for_is_no_request_to_stop(
    number: int, restarts: str, agents: str, expected: int
) -> None:
    given = {"TORCHELASTIC_MAX_RESTARTS": restarts, "GROUP_WORLD_SIZE": agents}
    assert asked_by(number, given) == expected
    assert to_launcher(expected, given) == (
        0 if expected == STOPPED and restarts != "0" else expected
    )
