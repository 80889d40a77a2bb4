"""What is easily typed and would train something else, or have no end: refused in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzed import words
from odd_lines import TINY, check, in_a_folder, outcome, parsed

from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.topology import random_regular
from hpc_localsgd.topology.derived import custom

pytestmark = pytest.mark.usefixtures("short")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--lr 0.1", "no option --lr - did you mean --rate.lr?"),
        ("--learning-rate 0.1", "did you mean --rate.lr?"),
        ("--batch-size 4", "no option --batch-size - did you mean --batch-per-worker?"),
        ("--momentum 0.9", "no option --momentum - did you mean --optimizer.momentum?"),
        ("--weight-decay 0.9", "did you mean --optimizer.weight-decay?"),
        ("--rate 0.1", "did you mean --rate.lr 0.1?"),
        ("--schedule 16", "did you mean --schedule.every 16?"),
        ("--workers 1000000000", "--workers 1000000000: give at most"),
        ("--steps 1e400", "larger than any number"),
        ("--device meta", "--device meta cannot be used here"),
        ("--steps 99:99:99", "'99:99:99' is not a time"),
        ("--seed 18446744073709551616", "give a number below 2^53"),
        ("--task.test-fraction 0", "give a number between 0 and 1"),
        ("--task.test-fraction 1", "give a number between 0 and 1"),
        ("--task.test-fraction 1.5", "give a number between 0 and 1"),
        ("--task.hidden -1", "--task.hidden -1: give at least 1"),
        ("--out=", "--out '': give it a value"),
        ("--optimizer.momentum 2", "from 0 to below 1"),
        ("--optimizer Adam --optimizer.betas=[0.9,2]", "--optimizer.betas 2.0: give a number from"),
        ("--rate.warmup 200%", "rate.warmup '200%' is more than the whole run"),
        ("--task.hidden 0", "--task.hidden 0: give at least 1"),
        ("--task.hidden 100000000000", "cannot be made"),
        ("--batchnorm-batches 0", "give at least 1"),
        ("--task.test-fraction nan", "--task.test-fraction wants a number, got nan"),
        ("--task.test-fraction .nan", "give a finite number"),
        ("--gradient noise_injected --gradient.sigma null", "--gradient.sigma null: give it a va"),
        ("--mom 3", "no option --mom"),
    ],
)
def test_what_was_doubtful_is_refused_and_nothing_is_left(argv: str, said: str) -> None:
    with in_a_folder() as folder:
        tiny = [p for p in TINY.items() if f"--{p[0].replace('_', '-')}" not in argv]
        given_words = [*words(tiny, parsed("train")), *argv.split()]
        status, message = check("train", given_words, folder)
        assert status == 2 and said in message


@pytest.mark.parametrize("command", ["plan", "verify", "train"])
def test_without_torch_a_command_says_so(command: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from hpc_localsgd.__main__ import main; "
    code += f"sys.exit(main([{command!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "needs PyTorch" in done.stderr or "PyTorch is not installed" in done.stderr


CUSTOM = "--algorithm gossip --algorithm.topology custom --algorithm.topology.W "
FORM = "type rows of real numbers, as [[0.5, 0.5], [0.5, 0.5]]"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (CUSTOM + "[[x,1],[1,0]]", f"'x' is not a number: {FORM}"),
        (CUSTOM + "[[1j,0],[0,1]]", f"'1j' is not a number: {FORM}"),
        (CUSTOM + "[[null,1],[1,0]]", f"'null' is not a number: {FORM}"),
        (CUSTOM + "{a:0}", f"{{a:0}} is not a matrix of numbers: {FORM}"),
        (CUSTOM + "[[0.5,0.5],[0.5]]", f"[[0.5, 0.5], [0.5]] is not a matrix of numbers: {FORM}"),
        (CUSTOM + "[[0.5,0.5]]", "one column per worker, got shape (1, 2)"),
        (CUSTOM + "[[[1]]]", "got shape (1, 1, 1)"),
        (CUSTOM + "[[nan,1],[1,0]]", "weight [0, 0] of the mixing matrix is nan"),
        (CUSTOM + "complex.npy", "the matrix of 'complex.npy' holds complex numbers"),
        (CUSTOM + "text.npy", "'a' of 'text.npy' is not a number"),
        (CUSTOM + "dates.npy", "holds values of type datetime64[D]"),
        (CUSTOM + "objects.npy", "cannot read a matrix of numbers from 'objects.npy'"),
        (CUSTOM + "empty.csv", "got shape (0, 1)"),
        (CUSTOM + "zero.csv", "cannot read 'zero.csv': it is a device or a pipe"),
        (CUSTOM + "pipe.npy", "cannot read 'pipe.npy': it is a device or a pipe"),
        (CUSTOM + "huge.npy", "it has 10,000,000,000,000 bytes, and at most"),
        ("--config pipe.npy", "--config pipe.npy: it is a device or a pipe, which may have no end"),
        ("--config zero.csv", "--config zero.csv: it is a device or a pipe, which may have no end"),
        ("--config huge.npy", "it has 10,000,000,000,000 bytes, and at most 1,048,576 are read"),
        ("--task text --task.file pipe.npy", "it is a device or a pipe"),
        ("--task text --task.file huge.npy", "it has 10,000,000,000,000 bytes"),
        ("--epochs 1e300", "--epochs 1e+300: give a number of at most 1e+30"),
        ("--epochs 1e29", "is more than 1e+12 steps: type less"),
    ],
)
def test_what_is_no_matrix_and_what_has_no_end_is_refused(argv: str, said: str) -> None:
    with in_a_folder() as folder:
        odd_files(folder)
        tiny = [p for p in TINY.items() if "--epochs" not in argv or p[0] != "steps"]
        if "--task text" in argv:
            tiny = [p for p in tiny if p[0] != "task.hidden"]
        before = sorted(folder.rglob("*"))
        status, _, message = outcome("train", [*words(tiny, parsed("train")), *argv.split()])
        assert (status, message.count("\n")) == (2, 1), message
        assert said in message
        assert sorted(folder.rglob("*")) == before


def odd_files(folder: Path) -> None:
    """Files that hold no matrix, and some that have no end."""
    for name, values in {
        "complex": np.array([[0.5 + 0.5j, 0.5 - 0.5j]] * 2),
        "text": np.array([["a", "b"], ["c", "d"]]),
        "dates": np.array([["2020-01-01"]], dtype="M8[D]"),
        "objects": np.array([[1, None], [None, 1]], dtype=object),
    }.items():
        np.save(folder / f"{name}.npy", values)
    (folder / "empty.csv").write_text("")
    (folder / "zero.csv").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.npy")
    with (folder / "huge.npy").open("wb") as file:
        file.truncate(10**13)  # sparse: it takes no space


def test_numbers_in_quotes_are_a_matrix() -> None:
    assert (custom("[['0.5', '0.5'], ['0.5', '0.5']]").matrix(2) == 0.5).all()


@pytest.mark.parametrize("schedule", ["every", "post_local", "qsr", "doubling", "phases"])
@pytest.mark.parametrize("steps", ["1000000000", "100000000000"])
def test_a_plan_of_more_exchanges_than_can_be_looked_at_names_the_bound(
    schedule: str, steps: str
) -> None:
    with in_a_folder() as folder:
        tiny = [p for p in TINY.items() if p[0] not in ("steps", "out")]
        argv = [*words(tiny, parsed("plan")), f"--steps={steps}", f"--schedule={schedule}"]
        status, message = check("plan", argv, folder)
        assert status == 2 and "(at most 3,000,000): type fewer --steps" in message


@pytest.mark.parametrize(
    ("command", "argv", "said"),
    [
        ("landscape", "--points 1000000000", "type --points 316 or less"),
        ("landscape", "--points 1000000000 --dimensions 1", "type --points 100000 or less"),
        ("landscape", "--reach .nan", "--reach nan: give a finite number"),
        ("landscape", "--points 1", "at least 2 points"),
        ("sharpness", "--tolerance .nan", "--tolerance nan: give a finite number"),
        ("sharpness", "--sigma .inf", "--sigma inf: give a finite number"),
        ("sharpness", "--direction-probes 1000000000", "give at most 10,000"),
        ("sharpness", "--density-steps 1000000000", "give at most 10,000"),
    ],
)
def test_measurements_without_end_are_refused(command: str, argv: str, said: str) -> None:
    with in_a_folder() as folder:
        status, message = check(command, ["precious", *argv.split()], folder)
        assert status == 2 and said in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--rate.floor -1", "rate.floor must be from 0 to rate.lr, which is 0.1, got -1"),
        ("--rate.floor 5", "rate.floor must be from 0 to rate.lr, which is 0.1, got 5"),
        ("--rate.lr 1e300", "--rate.lr 1e+300: give a number of at most 1e+30"),
        ("--gradient sam --gradient.rho 1e300", "--gradient.rho 1e+300: give a number of at most"),
        ("--optimizer SGD --optimizer.dampening 5", "--optimizer.dampening 5"),
        ("--schedule qsr --schedule.power -1", "qsr.power must be positive, got -1"),
        ("--algorithm overlap --algorithm.pull 5", "--algorithm.pull 5.0: give a number from 0 to"),
        ("--algorithm slowmo --algorithm.alpha -1", "slowmo: needs alpha > 0"),
        ("--algorithm diloco --algorithm.lr 0", "diloco: lr must be positive"),
        ("--algorithm streaming_diloco --algorithm.lr 0", "streaming_diloco: lr must be positive"),
        ("--algorithm hierarchical --algorithm.blocks [0]", "a block has at least 1 worker"),
        (
            "--algorithm.compressor top_k --algorithm.compressor.fraction 2",
            "top_k keeps a fraction above 0 and at most 1 of the entries, got 2",
        ),
        ("--optimizer Adam --optimizer.betas [0.9]", "Expected a tuple with 2 elements"),
    ],
)
def test_numbers_that_would_train_something_else_are_refused(argv: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse([*words(list(TINY.items()), parsed("train")), *argv.split()])
    assert said in str(caught.value)


def test_a_part_of_a_step_is_no_length() -> None:
    for duration in ("1.5", "0.6 steps", 2.5):
        with pytest.raises(ConfigurationError, match="not a whole number of steps: type one"):
            Units(10.0, 8, 100).steps(duration, "--steps")
    assert [Units(10.0, 8, 100).steps(d) for d in ("2.0", "0.25 epochs", "1.5%")] == [2, 2, 2]


def test_a_degree_that_no_number_of_workers_near_has_is_named() -> None:
    with pytest.raises(ConfigurationError, match="Use more than 100 workers, or"):
        random_regular(degree=100).matrix(2)
