"""Files of an older schema: what they called by a name that means something else today."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from hpc_localsgd.trajectory import Header, Trajectory, TrajectoryError, Writer


def header(algorithm: str, task: str = "digits", t0: int = 0) -> Header:
    return Header("", task, algorithm, "every(1)", "simulated(2)", K=2, P=3, seed=1, t0=t0)


def written(
    path: Path, said: Header, values: dict[str, float], version: int = 1, mode: str = "new"
) -> None:
    with Writer(path, said, mode=mode) as writer:  # type: ignore[arg-type]
        for step in (said.t0 + 2, said.t0 + 4):
            for name, value in values.items():
                writer.series(name, step, value, meaning="as it was said then")
    with h5py.File(writer.path, "r+") as file:
        file.attrs["schema_version"] = version


OLD = {"spread": 1.0, "xi/gap": 2.0, "gradient/effective_lr": 3.0, "gradient/norm": 4.0}


@pytest.mark.parametrize(
    ("algorithm", "task", "names"),
    [
        ("LocalSGD", "digits", ["gradient/effective_lr", "gradient/norm", "spread", "xi/gap"]),
        (
            "Measured(of=Gossip(order='awc'))",
            "digits",
            [
                "before_exchange/gradient/effective_lr",
                "before_exchange/spread",
                "before_exchange/xi/gap",
                "gradient/norm",
            ],
        ),
        (
            "SlowMo",
            "digits(label_noise=0.1)",
            [
                "as_trained/gradient/effective_lr",
                "as_trained/gradient/norm",
                "as_trained/xi/gap",
                "spread",
            ],
        ),
        ("LocalSGD", "cifar10(augment=False)", sorted(OLD)),
        (
            "D2",
            "cifar10",
            [
                "as_trained/gradient/norm",
                "before_exchange/as_trained/gradient/effective_lr",
                "before_exchange/as_trained/xi/gap",
                "before_exchange/spread",
            ],
        ),
    ],
)
def test_what_meant_something_else_is_read_under_a_name_of_its_own(
    tmp_path: Path, algorithm: str, task: str, names: list[str]
) -> None:
    written(tmp_path, header(algorithm, task), OLD)
    run = Trajectory(tmp_path)
    assert run.names() == names
    for name in names:
        old = name.removeprefix("before_exchange/").removeprefix("as_trained/")
        assert run.series(name).value.tolist() == [OLD[old]] * 2
    assert "before_exchange/spread [2]" in repr(run) or "spread [2]" in repr(run)
    if "spread" not in names:
        with pytest.raises(TrajectoryError, match="no series 'spread'"):
            run.series("spread")


def test_a_run_that_went_on_with_another_version_does_not_mix_two_moments(tmp_path: Path) -> None:
    written(tmp_path, header("Gossip"), {"spread": 9.0})
    now = {"spread": 1.0, "before_exchange/spread": 8.0}
    written(tmp_path, header("Gossip", t0=4), now, version=2, mode="resume")
    run = Trajectory(tmp_path)
    assert run.series("spread").step.tolist() == [6, 8]
    assert run.series("spread").value.tolist() == [1, 1]
    assert run.series("before_exchange/spread").step.tolist() == [2, 4, 6, 8]
    assert run.series("before_exchange/spread").value.tolist() == [9, 9, 8, 8]


def test_the_spread_at_snapshots_has_the_name_it_has_today(tmp_path: Path) -> None:
    path = tmp_path / "sharpness.h5"
    written(path, header("Gossip"), {"sharpness/xi_trace": 1.0, "sharpness/trace": 2.0})
    found = Trajectory(path, segments=False)
    assert found.names() == ["sharpness/snapshot_xi_trace", "sharpness/trace"]
    assert found.series("sharpness/snapshot_xi_trace").value.tolist() == [1, 1]


def test_an_older_file_is_not_gone_on_with(tmp_path: Path) -> None:
    said = header("LocalSGD")
    written(tmp_path, said, OLD)
    with pytest.raises(TrajectoryError, match='has schema version 1, .* mode="resume"'):
        Writer(tmp_path, said, mode="append")
