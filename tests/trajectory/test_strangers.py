"""A record that somebody else made: what is refused in one sentence, and what it may not do."""

from __future__ import annotations

import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from hpc_localsgd.__main__ import main
from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.trajectory import Header, Trajectory, TrajectoryError, Writer
from hpc_localsgd.trajectory.safe_text import load_yaml, readable

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def record(folder: Path, **said: Any) -> Path:
    """A short run."""
    facts = {"config": "seed: 1\n", "task": "digits", "algorithm": "local_sgd()"}
    facts |= {"schedule": "every(8)", "world": "simulated(2)", **said}
    with Writer(folder, Header(**facts, K=2, P=3, seed=1), mode="overwrite") as writer:
        numbers = {"compute_s": 1.0, "wait_s": 0.0, "transfer_s": 0.1, "payload_bytes": 12}
        writer.round(step_begin=0, step_end=8, lr=0.1, **numbers)
        writer.series("eval/test/accuracy", 8, 0.9, units="fraction")
        writer.snapshot(8, np.zeros(3), np.zeros((2, 3)))
    return folder / "trajectory.h5"


def attr(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def put(name: str, **how: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **how)

    return change


def link(name: str, made: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = made

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (8,))
    del file["series/eval/test/accuracy/value"]
    file.create_virtual_dataset("series/eval/test/accuracy/value", layout)


def elsewhere(file: h5py.File) -> None:
    group = file["series/eval/test/accuracy"]
    del group["value"]
    group.create_dataset("value", (8,), "f8", external=[("/etc/passwd", 0, 64)])


HUGE = {"shape": (10**12,), "chunks": (1024,), "dtype": "f8"}
PACKED_ZEROS = {"shape": (10**10,), "chunks": (1 << 26,), "dtype": "f8", "compression": "gzip"}
VALUE, STEP = "series/eval/test/accuracy/value", "series/eval/test/accuracy/step"
STRANGE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "K huge": (attr("K", 10**15), "its K is 1000000000000000, where a whole number"),
    "K negative": (attr("K", -1), "its K is -1"),
    "K text": (attr("K", "abc"), "its K is 'abc'"),
    "K NaN": (attr("K", math.nan), "its K is nan"),
    "K inf": (attr("K", math.inf), "its K is inf"),
    "K missing": (attr("K", None), "its K is None"),
    "K many": (attr("K", np.arange(1000)), "its attribute K is neither a number nor a text"),
    "K another": (attr("K", 3), "it is of 3 workers and 3 parameters, but a row of rounds"),
    "P huge": (attr("P", 10**15), "its P is 1000000000000000"),
    "P zero": (attr("P", 0), "its P is 0"),
    "P another": (attr("P", 4), "a row of snapshots/mean is (3,)"),
    "clock": (attr("clock", "sundial"), "its clock is 'sundial', where one of measured"),
    "status": (attr("status", "<b>"), "its status is '<b>'"),
    "steps": (attr("steps", -5), "its steps is -5"),
    "steps huge": (attr("steps", 10**17), "its steps is"),
    "t0": (attr("t0", math.nan), "its t0 is nan"),
    "epoch": (attr("steps_per_epoch", math.inf), "its steps_per_epoch is inf"),
    "config": (attr("config", 7), "its config is 7"),
    "external link": (link("series/x", h5py.ExternalLink("/etc/passwd", "/")), "is a link to"),
    "soft link": (link("series/x", h5py.SoftLink("/rounds")), "series/x is a link to"),
    "link of a table": (link("rounds", h5py.ExternalLink("other.h5", "/rounds")), "is a link to"),
    "virtual": (virtual, "lie in another file"),
    "external storage": (elsewhere, "lie in another file"),
    "huge": (put(VALUE, **HUGE), "declares more numbers than the file can hold"),
    "packed": (put(VALUE, **PACKED_ZEROS), "declares more numbers than the file can hold"),
    "axes": (put(VALUE, data=np.zeros((1, 2))), "is not an array with 1 axes"),
    "texts": (put(VALUE, data=np.array([b"abc"])), "is not an array of numbers"),
    "objects": (put(VALUE, shape=(1,), dtype=h5py.ref_dtype), "is not an array of numbers"),
    "fractions as steps": (put(STEP, data=[0.5]), "is not an array"),
    "rounds": (put("rounds/compute_s", data=np.zeros(4)), "is not an array with 2 axes"),
    "name": (lambda f: f.move("series/eval", "series/\x1b[2J"), "series name"),
    "dots": (lambda f: f.move("series/eval", "series/..x"), "series name"),
}


def strange(folder: Path, name: str) -> Path:
    path = record(folder)
    with h5py.File(path, "r+") as file:
        STRANGE[name][0](file)
    return path


@pytest.mark.parametrize("name", STRANGE)
def test_what_no_run_has_recorded_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    """Before anything of that size is allocated: the sentence is what it costs."""
    path = strange(tmp_path, name)
    tracemalloc.start()
    try:
        with pytest.raises(TrajectoryError) as caught:
            Trajectory(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert STRANGE[name][1] in said and said.startswith(f"{path}: not a record of this package: ")
    assert said.isprintable() and len(said) < 600


def test_parameters_that_are_declared_and_not_there_are_not_read(tmp_path: Path) -> None:
    """One row at a time is read of them, so a killed run may lack some; a row is bounded too."""
    path = record(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["P"] = 10**12
        for name, row in (("mean", (10**12,)), ("workers", (2, 10**12))):
            del file["snapshots"][name]
            made = file["snapshots"].create_dataset(name, (1, *row), "f4", chunks=True)
            made.attrs["encoding"] = "float32"
    run = Trajectory(path)
    for workers in (False, True):
        with pytest.raises(TrajectoryError, match="a snapshot of it would have"):
            run.snapshot(workers=workers)


COMMAND_LINES = {
    **dict.fromkeys(("summary", "cite", "compare", "report", "sharpness"), ["{run}"]),
    **dict.fromkeys(("export", "whatif"), ["{run}"]),
    "landscape": ["{run}"],
    "train": ["--resume", "--out", "{folder}"],
}


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_every_command_refuses_it_in_the_same_sentence(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("K huge", "virtual", "huge", "link of a table"):
        path = strange(tmp_path / name.replace(" ", "-"), name)
        words = [w.format(run=path, folder=path.parent) for w in COMMAND_LINES[command]]
        assert main([command, *words]) == 2
        said = capfd.readouterr().err
        assert STRANGE[name][1] in said and "Traceback" not in said
        assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]", "<<: &a {<<: *a}", "[" * 5000, "x: 2001-99-99", "x: " + "9" * 5000,
     'x: "\\e[2J"', "{[1]: 2}", "x" * (2 << 20), "!!python/object/apply:os.getcwd []"],
)  # fmt: skip
def test_a_text_that_is_no_configuration_is_a_fault_of_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_aliases_that_a_person_would_write_are_read() -> None:
    assert load_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("command", [*COMMAND_LINES, "plan"])
def test_a_bomb_of_aliases_does_not_go_off(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "run", config=BOMB)
    words = [w.format(run=path, folder=path.parent) for w in COMMAND_LINES.get(command, [])]
    if command in ("train", "plan"):
        (tmp_path / "bomb.yaml").write_text(BOMB)
        words = ["--config", str(tmp_path / "bomb.yaml")]
    if command == "report":
        words.append("--formats")
    status = main([command, *words])
    assert status == 2 or command in ("summary", "report", "compare")  # which do without it
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Of a pipe there is no end, and none of /dev/zero."""
    os.mkfifo(tmp_path / "trajectory.h5")
    with pytest.raises(TrajectoryError, match="not a file"):
        Trajectory(tmp_path / "trajectory.h5")
    record(tmp_path / "run")
    (tmp_path / "run" / "trajectory-0001.h5").symlink_to("/dev/zero")
    with pytest.raises(TrajectoryError, match="not a file"):
        Trajectory(tmp_path / "run")


def test_a_segment_of_any_number_is_named_at_once(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / f"trajectory-{10**30}.h5").touch()
    with pytest.raises(TrajectoryError, match=r"trajectory-0001\.h5 of this run is missing"):
        Trajectory(tmp_path)


def test_no_terminal_obeys_what_a_file_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "a\x1b[31m", algorithm="\x1b]0;mine\x07sgd", schedule="\u202eyreve")
    assert main(["summary", str(path), str(path)]) == 0
    for command in ("summary", "compare"):
        assert main([command, str(path)]) == 0
    assert main(["cite", str(path.with_name("no\x1b[2J.h5"))]) == 2
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    assert readable("\x1b[2J\u202e\udc80 \xe9\n", "\n") == "\\x1b[2J\\u202e\\udc80 \xe9\n"


def test_a_page_shows_what_a_file_says_and_obeys_none_of_it(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> $\\frac{$"
    path = record(
        tmp_path / "<b>run", config=yaml.safe_dump({"task": evil, evil: evil, "rate": evil}),
        task=evil, algorithm=evil, schedule=evil, world=evil, git=evil, package_version=evil,
    )  # fmt: skip
    with h5py.File(path, "r+") as file:
        group = file["series/eval/test/accuracy"]
        group.attrs.update({"units": evil, "meaning": evil})
        file.attrs["slurm_job_name"] = evil
    argv = [str(path), "--out", str(tmp_path / "page")]
    assert main(["report", *argv, "--formats"]) == 0
    assert main(["compare", *argv]) == 0
    for page in (tmp_path / "page").glob("*.html"):
        html = page.read_text()
        assert "<script" not in html and "<img src=x" not in html and "<b>run" not in html
    assert "alert(1)" in (tmp_path / "page" / "report.html").read_text()  # it is there, as text


def test_a_landscape_and_a_sharpness_beside_it_are_vetted_too(tmp_path: Path) -> None:
    path = tmp_path / "landscape-pca.h5"
    with h5py.File(path, "w") as file:
        file.attrs["landscape_version"] = 1
        file["value"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(TrajectoryError, match="value is a link to another place"):
        Landscape.read(path)
    with h5py.File(path, "w") as file:
        file["value/train_loss"] = [1.0]
    path.write_bytes(path.read_bytes().replace(b"SNOD", b"XXXX"))
    with pytest.raises(TrajectoryError, match="not a landscape, or damaged"):
        Landscape.read(path)
