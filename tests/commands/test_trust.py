"""A file never runs code: what a configuration may name, and whose word counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from hpc_localsgd.__main__ import COMMANDS, main
from hpc_localsgd.commands.configuration import config, trust
from hpc_localsgd.commands.configuration.names import CHOICES
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.trajectory import Header, Writer

P = 3


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists as soon as something ran; beside it a module that makes it."""
    made = tmp_path / "it_ran"
    code = f"from pathlib import Path\nPath({str(made)!r}).touch()\n"
    code += "from hpc_localsgd.tasks.digits import digits\nclass theirs(digits): pass\n"
    (tmp_path / "strange_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield made
    sys.modules.pop("strange_module", None)


def payloads(marker: Path) -> dict[str, str]:
    """Configurations that name what is no class of the kind, and would leave the marker."""
    touch = f"touch {marker}"
    return {
        "function": f"optimizer: {{class_path: os.system, init_args: {{command: '{touch}'}}}}",
        "output": f"optimizer: {{class_path: subprocess.getoutput, init_args: {{cmd: '{touch}'}}}}",
        "process": f"optimizer: {{class_path: subprocess.Popen, init_args: {{args: '{touch}'}}}}",
        "file": f"task: {{class_path: io.FileIO, init_args: {{file: '{marker}', mode: w}}}}",
        "bound": "optimizer: {class_path: functools.partial, init_args: {func: os.system}}",
        "torch": f"optimizer: {{class_path: torch.save, init_args: {{obj: 1, f: '{marker}'}}}}",
        "inside": "optimizer: {class_path: torch.optim.Adam, init_args: {betas: "
        f"[{{class_path: os.system, init_args: {{command: '{touch}'}}}}, 0.9]}}}}",
        "text": "optimizer: {class_path: torch.optim.Adam, init_args: {betas: "
        "[strange_module.theirs, 0.9]}}",
        "nested": "algorithm: {class_path: local_sgd, init_args: {compressor: "
        f"{{class_path: os.system, init_args: {{command: '{touch}'}}}}}}}}",
        "deep": "algorithm: {class_path: gossip, init_args: {topology: {class_path: lazy, "
        f"init_args: {{of: {{class_path: os.system, init_args: {{command: '{touch}'}}}}}}}}}}}}",
        "bare": "optimizer: os.system",
        "tagged": f"optimizer: !!python/object/apply:os.system ['{touch}']",
    }


NAMES = tuple(payloads(Path("it_ran")))
STRANGE = "task: {class_path: strange_module.theirs}"


def record(folder: Path, text: str) -> Path:
    """A trajectory of unknown origin, with snapshots so that every command runs to its end."""
    said = (text, "digits", "local_sgd()", "every(8)", "simulated(2)")
    with Writer(folder, Header(*said, K=2, P=P, seed=1)) as writer:
        for step in (0, 8):
            writer.snapshot(step, [0.1 * step] * P)
        numbers = {"compute_s": 1.0, "wait_s": 0.0, "transfer_s": 0.1, "payload_bytes": 12}
        writer.round(step_begin=0, step_end=8, lr=0.1, **numbers)
        writer.series("eval/test/accuracy", 8, 0.9, units="fraction")
    return folder / "trajectory.h5"


def ended(command: str, argv: list[str]) -> int | str | None:
    try:
        return main([command, *argv])
    except SystemExit as end:
        return end.code


OPENS_A_RECORD = (
    "whatif",
    "export",
    "sharpness",
    "landscape",
    "report",
    "compare",
    "cite",
    "summary",
)
REBUILDS = ("whatif", "export", "sharpness", "landscape")


@pytest.mark.parametrize("command", COMMANDS)
def test_neither_a_file_nor_a_record_runs_anything(
    command: str, marker: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command is given them as: options, a run, or something else altogether."""
    given = {**payloads(marker), "strange": STRANGE}
    if command in ("report", "compare", "doctor", "verify"):  # slower, and they make no objects
        given = {name: given[name] for name in ("function", "strange")}
    for name, text in given.items():
        folder = tmp_path / name
        run = str(record(folder, text))
        file = folder / "config.yaml"
        file.write_text(text + "\n")
        if command in OPENS_A_RECORD:
            status = ended(command, [run, *(["--formats"] if command == "report" else [])])
            assert status == 2 if command in REBUILDS else status in (0, 2), (name, status)
        elif command in ("train", "plan"):
            assert ended(command, ["--config", str(file), "--out", str(tmp_path / "out")]) == 2
            again = ["--config", str(file), "--out", str(folder), "--resume"]
            assert ended(command, again) == 2
        elif command == "pack":
            assert ended(command, [run, str(tmp_path / "packed.h5")]) == 2
        else:
            assert ended(command, ["--config", str(file)]) == 2
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert not marker.exists(), f"{command} ran what {name} names"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_class_of_the_kind_is_refused_on_the_command_line_too(
    name: str, marker: Path
) -> None:
    """In the forms a command line has: text, dotted options, one value."""
    option, value = next(iter(yaml.load(payloads(marker)[name], yaml.BaseLoader).items()))
    forms = [[f"--{option}={payloads(marker)[name].partition(': ')[2]}"]]
    if isinstance(value, dict):
        forms += [
            [f"--{option}.class_path={value['class_path']}"],
            [f"--{option}", value["class_path"]],
            [f"--{option}.help", value["class_path"]],
        ]
    for argv in forms:
        if name in ("inside", "text", "nested", "deep") and argv is not forms[0]:
            continue
        with pytest.raises((ConfigurationError, TypeError)):
            config.parse(argv)
        assert not marker.exists()


def test_the_refusal_says_what_was_named_and_what_may_be() -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(["--optimizer", "os.system"])
    said = str(caught.value)
    assert said.startswith("optimizer os.system is not a class derived from torch.optim")
    assert "AdamW" in said and "of your own" in said


@pytest.mark.parametrize(
    ("option", "path"), [(option, path) for option in CHOICES for path in ("os.path", "json.loads")]
)
def test_python_s_own_library_has_no_class_of_any_kind(option: str, path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} {path} is not a class derived from"):
        trust.vet(option, path)


def test_nothing_of_python_s_own_library_is_imported_to_find_out() -> None:
    assert "this" not in sys.modules  # which prints when it is imported
    for record in (False, True):
        with pytest.raises(ConfigurationError), trust.guarded(["this"], record):
            trust.vet("optimizer", "this.s")
    assert "this" not in sys.modules


def test_ones_own_class_is_ones_own_code(marker: Path, tmp_path: Path) -> None:
    """On the command line and in a file of one's own, short of being of another kind."""
    made = config.parse(["--task", "strange_module.theirs"]).config.task
    assert isinstance(made, digits) and type(made).__name__ == "theirs" and marker.exists()
    file = tmp_path / "mine.yaml"
    file.write_text(STRANGE)
    assert type(config.parse(["--config", str(file)]).config.task) is type(made)
    with pytest.raises(ConfigurationError, match="is not a class derived from"):
        config.parse(["--algorithm", "strange_module.theirs"])


def test_a_name_that_a_module_of_ones_own_has_not_is_said_so(marker: Path) -> None:
    said = "strange_module has no thiers - did you mean strange_module.theirs\\?"
    with pytest.raises(ConfigurationError, match=f"task strange_module.thiers: {said}"):
        config.parse(["--task", "strange_module.thiers"])
    with pytest.raises(ConfigurationError, match="strange_module has no zzz$"):
        config.parse(["--task", "strange_module.zzz"])


def test_a_record_needs_trust_and_says_how_to_give_it(marker: Path) -> None:
    with pytest.raises(ConfigurationError, match="add --trust strange_module$"):
        config.recorded(STRANGE)
    assert not marker.exists()
    made = config.recorded(STRANGE, ["strange_module"]).config.task
    assert type(made).__name__ == "theirs" and marker.exists()
    for other in ("strange", "strange_module.theirs.x", "os"):
        with pytest.raises(ConfigurationError, match="add --trust"):
            config.recorded(STRANGE, [other])
    with pytest.raises(ConfigurationError, match="is not a class derived from"):
        config.recorded("optimizer: os.system", ["os"])


@pytest.mark.parametrize("command", [*REBUILDS, "train", "plan"])
def test_trust_is_an_option_of_what_makes_objects_of_a_record(
    command: str, marker: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run", STRANGE)
    file = tmp_path / "run" / "config.yaml"
    file.write_text(STRANGE + "\nsteps: -1\n")
    argv = [str(run)] if command in REBUILDS else ["--config", str(file)]
    assert ended(command, argv) == 2 and not marker.exists()
    assert "add --trust strange_module" in capfd.readouterr().err
    answered = 0 if command == "whatif" else 2  # it needs no more of the record
    assert ended(command, [*argv, "--trust", "strange_module"]) == answered
    assert "--trust" not in capfd.readouterr().err and marker.exists()


@pytest.mark.parametrize(
    "text",
    ["config: {other}", "task: {other}", "algorithm: {{class_path: gossip, init_args: "
     "{{topology: {{class_path: lazy, init_args: {{of: {other}}}}}}}}}"],
)  # fmt: skip
def test_a_record_does_not_lead_to_other_files(text: str, marker: Path, tmp_path: Path) -> None:
    """Else what it may not name could stand in the file beside it."""
    other = tmp_path / "other.yaml"
    other.write_text("class_path: strange_module.theirs\n" + STRANGE)
    said = text.format(other=other)
    with pytest.raises(ConfigurationError):
        config.recorded(said)
    file = record(tmp_path / "run", said).with_name("config.yaml")
    file.write_text(said)
    with pytest.raises(ConfigurationError):
        config.parse(["--config", str(file)])
    assert not marker.exists()


def test_no_file_can_say_that_it_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("trust: [strange_module]\n")
    with pytest.raises(ConfigurationError, match="--trust is typed on the command line"):
        config.parse(["--config", str(file)])


def test_a_record_may_name_everything_that_is_shipped() -> None:
    for option in CHOICES:
        for path in config.choices(option).values():
            trust.vet(option, path)
    for name in ("torch.optim.AdamW", "torch.optim.adamw.AdamW"):
        made = config.recorded(f"optimizer: {{class_path: {name}}}").optimizer
        assert isinstance(made([torch.nn.Parameter(torch.zeros(1))]), torch.optim.AdamW)
    assert config.recorded("algorithm: {class_path: hpc_localsgd.LocalSGD}").config.algorithm


def test_other_parsers_of_the_process_keep_their_own_rules() -> None:
    """Jsonargparse's settings are the process's, and a loop of one's own may use it."""
    from jsonargparse import _common

    before = dict(_common.parsing_settings)
    config.parse(["--optimizer", "AdamW"])
    with pytest.raises(ConfigurationError):
        config.parse(["--optimizer", "os.system"])
    assert _common.parsing_settings == before
