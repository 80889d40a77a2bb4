"""A fault of the request: one message, an exit status, and nothing overwritten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from launching import alone, train
from small_runs import files_below

from hpc_localsgd.commands.exit_codes import DIVERGED, FAULT, OK
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

SHORT = ["--steps=20", "--workers=2", "--batch-per-worker=4", "--task.hidden=8", "--figures=false"]


def ran(out: Path | str, *options: str) -> int:
    """The main job inside this process."""
    return main([*SHORT, f"--out={out}", *options])


def one_message(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, after checking that it was said once and without a traceback."""
    said = capsys.readouterr()
    text = said.out + said.err
    assert "Traceback" not in text
    assert said.err.count("python -m hpc_localsgd.train: ") == 1, text
    return said.err


def as_everybody() -> tuple[str, ...]:
    """What a command starts with to give up root's right to write everywhere; skips without."""
    if os.geteuid() != 0:
        return alone
    setpriv = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    if not shutil.which("setpriv") or subprocess.run([*setpriv, "true"]).returncode != 0:
        pytest.skip("root may write everywhere, and setpriv (package util-linux) cannot change it")
    return setpriv


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert ran(out) == OK
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The folder of a run, to do harm to."""
    capsys.readouterr()
    return Path(shutil.copytree(trained, tmp_path / "run"))


WRONG = [
    (["--algorithm", "locl_sgd"], "did you mean 'local_sgd'"),
    (["--sede=3"], "sede"),
    (["--steps=1e"], "not a duration"),
    (["--batch-per-worker=800"], "use --batch-per-worker 718 or less"),
    (["--workers=0"], "at least one worker"),
    (["--steps=0"], "give at least one"),
    (["--seed=-1"], "must not be negative"),
    (["--fabric=moon"], "unknown network"),
    (["--device=moon"], "--device moon cannot be used"),
    (["--optimizer.momentum=-1"], "--optimizer.momentum -1.0: give a number from 0"),
    (["--optimizer=torch.optim.LBFGS"], "LBFGS"),
    (["--resume", "--overwrite"], "give one"),
    (["--resume"], "leave --resume out, or give --resume auto"),
    (["--schedule=phases", "--schedule.at=[9,5]", "--schedule.every=[1,2,3]"], "increasing order"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=[" ".join(o) for o, _ in WRONG])
def test_a_wrong_request_is_one_message_and_leaves_no_run_behind(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tmp_path / "out", *options) == FAULT
    assert said in one_message(capsys)
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize("options", [o for o, _ in WRONG if "--resume" not in o])
def test_a_wrong_request_to_replace_a_run_leaves_that_run_alone(
    options: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(finished)
    assert ran(finished, "--overwrite", *options) == FAULT
    one_message(capsys)
    assert files_below(finished) == before


def test_an_existing_run_is_not_overwritten_unasked(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(finished)
    assert {"trajectory.h5", "config.yaml"} < set(before)
    assert ran(finished) == FAULT
    assert re.search(r"holds a run already: add --resume .* --overwrite", one_message(capsys))
    assert files_below(finished) == before


def test_an_existing_run_is_replaced_when_asked(finished: Path) -> None:
    assert ran(finished, "--overwrite", "--seed=5") == OK
    assert Trajectory(finished).config["seed"] == 5


@pytest.mark.parametrize("below", ["a-file/out", "a-file", f"a-file{'-' * 250}"])
def test_a_folder_that_cannot_be_written_is_named(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").write_text("precious")
    assert ran(tmp_path / below) == FAULT
    assert re.search(r"cannot write to --out .*a-file.*give another", one_message(capsys))
    assert files_below(tmp_path) == {"a-file": b"precious"}


def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    outcome = train(as_everybody(), *SHORT, f"--out={tmp_path / 'out'}")
    assert outcome.status == FAULT and "Traceback" not in outcome.text
    assert re.fullmatch(r"hpc_localsgd \S+: loading PyTorch\n", outcome.stdout)
    assert outcome.stderr.count("cannot write to --out") == 1


@pytest.mark.parametrize("left", [0, 100, 3000])
def test_a_truncated_trajectory_is_not_resumed(
    left: int, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = finished / "trajectory.h5"
    record.write_bytes(record.read_bytes()[:left])
    before = files_below(finished)
    assert ran(finished, "--resume") == FAULT
    assert "trajectory.h5" in one_message(capsys)
    assert files_below(finished) == before


def test_a_run_is_not_resumed_with_other_options(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(finished)
    assert ran(finished, "--resume", "--seed=5", "--schedule.every=2") == FAULT
    said = one_message(capsys)
    assert re.search(r"these differ: --schedule.every 2, where it was \d+; --seed 5, where", said)
    assert f"Type --config {finished / 'config.yaml'} --out {finished} --resume" in said
    assert files_below(finished) == before


def test_the_message_of_a_refused_resume_says_what_works(finished: Path) -> None:
    config = f"--config={finished / 'config.yaml'}"
    assert main([config, f"--out={finished}", "--resume", "--figures=false"]) == OK
    assert Trajectory(finished).status == "complete"


def test_a_run_that_diverges_says_where_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tmp_path, "--rate.lr=1e9", "--rate.warmup=0", "--steps=200") == DIVERGED
    assert re.search(r"not finite in round \d+ \(steps .*lower --rate.lr", one_message(capsys))
    assert Trajectory(tmp_path).status == "diverged"
    assert Trajectory(tmp_path).rounds.step_end[-1] < 200


def test_an_evaluation_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(tmp_path, "--evaluate-every=0") == OK
    assert "sent by a worker" in capsys.readouterr().out


def test_a_run_without_any_option_can_be_parsed_and_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command of the README has no options."""
    (tmp_path / "runs").write_text("")  # so that it ends at once
    monkeypatch.chdir(tmp_path)
    assert main([]) == FAULT
    assert "cannot write to --out runs/digits" in one_message(capsys)


def test_a_run_that_ends_well_is_0_for_the_shell_and_says_nothing_as_an_error(
    tmp_path: Path,
) -> None:
    """That a fault is 2 there, a folder of somebody else shows."""
    assert train(alone, *SHORT, f"--out={tmp_path / 'out'}").succeeded().stderr == ""
