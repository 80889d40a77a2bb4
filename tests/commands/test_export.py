"""The trained model for other programs: it has the accuracy of the record, under its own names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hpc_localsgd.commands.export import main as export
from hpc_localsgd.commands.sharpness.command import main as sharpness
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.final_model import final_tensors, read_tensors, step_of
from hpc_localsgd.tasks.digits import conv, digits
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

NET = ["--task.model=conv", "--task.norm=batch", "--task.hidden=8", "--batch-per-worker=8"]
RUN = ["--workers=2", "--steps=24", "--schedule=every", "--schedule.steps=8", "--figures=false"]
RUN += ["--rate.lr=0.01"]  # at 0.1 all hidden units die, and no statistics matter
RUN += ["--evaluate-every=12"]  # a model with BatchNorm is evaluated for longer than it trains


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "run"
    assert train([*NET, *RUN, "--snapshot-every=12", f"--out={out}"]) == 0
    return out


def evaluated(state: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Loss and accuracy of a plain module on the test images, as a stranger would compute them."""
    model = conv("batch", 8)
    model.load_state_dict(state)
    images, labels = (torch.as_tensor(part) for part in digits().splits()["test"])
    with torch.no_grad():
        logits = model.eval()(images.float())
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    return loss, float((logits.argmax(1) == labels).double().mean())


def recorded_at(run: Path, step: int) -> tuple[float, float]:
    """Loss and accuracy of the mean model, as the run recorded them."""
    series = [Trajectory(run).series(f"eval/test/{name}") for name in ("loss", "accuracy")]
    loss, accuracy = (float(s.value[list(s.step).index(step)]) for s in series)
    return loss, accuracy


def test_a_run_leaves_its_model(run: Path) -> None:
    found = evaluated(load_file(run / "model.safetensors"))
    assert found == pytest.approx(recorded_at(run, 24), rel=1e-5)
    assert step_of(run / "model.safetensors") == 24


def test_who_may_read_the_record_may_read_the_model(run: Path) -> None:
    modes = {(run / name).stat().st_mode for name in ("model.safetensors", "config.yaml")}
    assert len(modes) == 1


def test_it_is_the_mean_of_workers_that_differ(tmp_path: Path) -> None:
    gossip = ["--algorithm=gossip", "--algorithm.topology=ring", "--workers=4"]
    assert train([*NET, *RUN, *gossip, "--snapshot-every=24", f"--out={tmp_path}"]) == 0
    state = load_file(tmp_path / "model.safetensors")
    trained = [name for name, _ in conv("batch", 8).named_parameters()]
    mean = Trajectory(tmp_path).snapshot(24).mean
    assert sorted(mean) == sorted(torch.cat([state[n].ravel() for n in trained]).tolist())
    assert evaluated(state) == pytest.approx(recorded_at(tmp_path, 24), rel=1e-5)


def test_random_numbers_go_on_as_if_nothing_had_been_written() -> None:
    def draws(*_: object) -> torch.Tensor:
        return torch.rand(3)

    run: Any = SimpleNamespace(
        world=Simulated(1, "cpu", network("10GbE")),
        algorithm=SimpleNamespace(readout=draws),
        batchnorm=SimpleNamespace(for_evaluation=draws),
        task=SimpleNamespace(named_tensors=lambda x, buffers: {"x": x, "buffers": buffers}),
    )
    before = torch.get_rng_state()
    named = final_tensors(run, cast(Any, SimpleNamespace(x=None, state=None)))
    assert named.keys() == {"x", "buffers"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [["--save-model=false"], ["--smoke"]])
def test_no_model_where_none_is_wanted(tmp_path: Path, options: list[str]) -> None:
    assert train([*NET, *RUN, f"--out={tmp_path / 'run'}", *options]) == 0
    assert not list(tmp_path.rglob("*.safetensors"))


LOADED: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    "safetensors": lambda path: dict(load_file(path)),
    "torch": lambda path: dict(torch.load(path, weights_only=True)),
}


@pytest.mark.parametrize("kind", LOADED)
def test_a_snapshot_is_exported(run: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "model"
    assert export([str(run), "--step=12", f"--format={kind}", f"--out={out}"]) == 0
    state = LOADED[kind](out)
    mean = Trajectory(run).snapshot(12).mean
    trained = [name for name, _ in conv("batch", 8).named_parameters()]
    assert sorted(mean) == sorted(torch.cat([state[n].ravel() for n in trained]).tolist())
    # The statistics are estimated as in the run, on the same batches.
    assert evaluated(state) == pytest.approx(recorded_at(run, 12), rel=1e-5)
    assert evaluated(state)[1] > 0.2  # it has learnt, so they matter
    means = torch.cat([t.ravel() for name, t in state.items() if name.endswith("running_mean")])
    assert (means != 0).all()


def test_the_end_of_the_run_is_exported_for_distributed_checkpoints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.distributed.checkpoint import load

    out = tmp_path / "model-dcp"
    assert export([str(run), "--format=dcp", f"--out={out}"]) == 0
    assert "step 24" in capsys.readouterr().out
    wanted = load_file(run / "model.safetensors")
    found = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    load(found, checkpoint_id=out, no_dist=True)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_model_that_the_run_wrote_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model.safetensors").stat()
    assert export([str(run)]) == 0
    assert f"{run}/model.safetensors is there already" in capsys.readouterr().out
    assert (run / "model.safetensors").stat() == before, "read, and not written again"


def test_what_is_there_is_replaced_if_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    assert export([str(run), "--step=12", f"--out={out}"]) == 0
    asked = [str(run), f"--out={out}"]
    assert export(asked) == 2 and step_of(out) == 12
    assert export([*asked, "--overwrite"]) == 0 and step_of(out) == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--step=13"], "snapshots at [0, 12, 24]"),
        (["--step=12", "--out=/nowhere/model"], "cannot write /nowhere/model"),
        (["--step=13"], "without --step it is the model at the end"),
        (["--format=torch", "--out={run}/config.yaml"], "give --overwrite"),
        (["--step=12", "--out={run}/model.safetensors"], "give --overwrite"),
        (["--format=onnx"], "onnx"),
    ],
)
def test_what_cannot_be_exported_is_said(
    run: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.iterdir())
    assert export([str(run), *(option.format(run=run) for option in options)]) == 2
    assert words in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_sharpness_without_snapshots_is_of_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    asked = ["--samples=40", "--eigenvalues=1", "--trace-probes=0", "--direction-probes=2"]
    assert train([*NET, *RUN, "--snapshot-every=24", f"--out={out}"]) == 0
    assert sharpness([str(out), *asked, "--steps=last"]) == 0
    of_snapshot = Trajectory(out / "sharpness.h5", segments=False).series("sharpness/eigenvalues")
    assert train([*NET, *RUN, f"--out={out}", "--overwrite"]) == 0
    assert sharpness([str(out), *asked]) == 0
    found = Trajectory(out / "sharpness.h5", segments=False).series("sharpness/eigenvalues")
    assert found.step.tolist() == [24]
    np.testing.assert_array_equal(found.value[-1], of_snapshot.value[-1])


def test_the_model_of_another_net_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    other = [word.replace("hidden=8", "hidden=4") for word in NET]
    assert train([*other, *RUN, f"--out={out}"]) == 0
    (out / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    assert sharpness([str(out), "--samples=20", "--eigenvalues=0", "--trace-probes=0"]) == 2
    assert "the model of the task has" in capsys.readouterr().err


def test_a_damaged_or_foreign_model_is_refused(run: Path, tmp_path: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    for i, bad in enumerate([b"", whole[:100], b"\xff" * 64, whole[:-8]]):
        file = tmp_path / f"{i}.safetensors"
        file.write_bytes(bad)
        for read in (read_tensors, step_of):
            with pytest.raises(ConfigurationError, match="not a model that a run has written"):
                read(file)


def test_a_full_disk_takes_the_model_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(tensors: object, path: Path, about: object) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert train([*NET, *RUN, f"--out={tmp_path}"]) == 0
    assert "no model.safetensors: I/O error: No space left" in capsys.readouterr().err
    assert Trajectory(tmp_path).status == "complete"
    assert not [*tmp_path.glob("*.safetensors"), *tmp_path.glob(".*.new")]
