"""`torchrun --nnodes 1:2`: agents join and leave, and the run goes on among those there are.

One run, in steps: each test waits for its own.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
RUN += ["--steps=320", "--rate.lr=0.01", "--spread-every=8", "--evaluate-every=80"]
RUN += ["--checkpoint-every=4", "--figures=false", "--resume=auto"]
SETTINGS = {
    "PYTHONPATH": str(HERE),
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",  # two agents count as two hosts
    "SLOW_S": "0.6",
}


class Agents:
    """Agents of one run, and how far it is.

    Attributes:
        out: The folder of the run.
        first: The agent that is there from the beginning to the end.
        ranks: How many the run has had, one after another.
    """

    first: Job

    def __init__(self, folder: Path) -> None:
        self.out, self.ranks = folder / "run", list[int]()
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

    @contextmanager
    def joined(self) -> Iterator[Job]:
        """Another agent beside the first, with whose rank the run has gone on."""
        with self.one() as job:
            self.go_on(2)
            yield job

    def go_on(self, ranks: int) -> None:
        """Wait until so many ranks have made steps and kept them."""
        before = self.step()

        def kept() -> bool:
            assert self.first.process.poll() is None, self.first.wait().text[-3000:]
            found = last_complete(self.out)
            return found is not None and found[1] == ranks and number(found[0]) > before

        until(kept, 60, f"{ranks} rank(s) go on from step {before}")
        self.ranks.append(ranks)

    def step(self) -> int:
        """Return the step of the last checkpoint."""
        found = last_complete(self.out)
        return number(found[0]) if found else 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """One agent, whose rank makes steps."""
    folder = tmp_path_factory.mktemp("elastic")
    (folder / "arrived").mkdir()
    own = {"ARRIVES": f"4 {folder / 'arrived'}", "HURRY": str(folder / "hurry")}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in (SETTINGS | own).items():
            patch.setenv(name, value)
        agents = Agents(folder)
        agents.first = stack.enter_context(agents.one())
        agents.go_on(1)
        yield agents


@pytest.fixture(scope="module")
def grown(alone: Agents) -> Iterator[tuple[Agents, Job]]:
    """Another one has joined it."""
    with alone.joined() as second:
        yield alone, second


@pytest.fixture(scope="module")
def shrunk(grown: tuple[Agents, Job]) -> Agents:
    """That was asked to leave, and has left."""
    agents, second = grown
    second.process.send_signal(signal.SIGTERM)
    second.wait()
    agents.go_on(1)
    return agents


@pytest.fixture(scope="module")
def again(shrunk: Agents) -> Iterator[tuple[Agents, Job]]:
    """A third one has joined the first."""
    with shrunk.joined() as third:
        yield shrunk, third


@pytest.fixture(scope="module")
def left(again: tuple[Agents, Job]) -> Agents:
    """That was killed with its rank."""
    agents, third = again
    third.kill()
    agents.go_on(1)
    return agents


@pytest.mark.launched
def test_it_begins_with_one_agent(alone: Agents) -> None:
    assert alone.ranks == [1]


@pytest.mark.launched
def test_it_goes_on_with_two(grown: tuple[Agents, Job]) -> None:
    assert grown[0].ranks == [1, 2]


@pytest.mark.launched
def test_it_goes_on_without_one_that_was_asked_to_leave(shrunk: Agents) -> None:
    assert shrunk.ranks == [1, 2, 1]


@pytest.mark.launched
def test_it_takes_a_third(again: tuple[Agents, Job]) -> None:
    assert again[0].ranks == [1, 2, 1, 2]


@pytest.mark.launched
def test_it_goes_on_without_one_that_is_killed_with_its_rank(left: Agents) -> None:
    assert left.ranks == [1, 2, 1, 2, 1]


@pytest.mark.launched
def test_it_ends_where_the_simulated_run_ends(left: Agents, tmp_path: Path) -> None:
    (left.out.parent / "hurry").touch()
    left.first.wait().succeeded()
    assert main([*RUN, "--world=simulated", f"--out={tmp_path / 'alone'}"]) == 0
    check_same_run(left.out, tmp_path / "alone", launches=5)


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
