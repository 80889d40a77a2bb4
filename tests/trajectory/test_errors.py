"""Each way a trajectory cannot be read or written: one message that says what to do."""

import subprocess
import sys

import h5py
import pytest

from hpc_localsgd.trajectory import Trajectory, TrajectoryError, Writer

from .runs import REPOSITORY, header, write_run


def test_a_missing_file_names_what_is_there(tmp_path):
    write_run(tmp_path / "a", range(1))
    with pytest.raises(TrajectoryError, match="no such trajectory. There are runs in .*a"):
        Trajectory(tmp_path)
    with pytest.raises(TrajectoryError, match="holds trajectory.h5"):
        Trajectory(tmp_path / "a" / "trajectroy.h5")
    with pytest.raises(TrajectoryError, match="does not exist either. Give a trajectory.h5"):
        Trajectory(tmp_path / "b")
    (tmp_path / "a" / "checkpoints").mkdir()
    with pytest.raises(TrajectoryError, match=f"one in the folder above it, {tmp_path / 'a'}\\."):
        Trajectory(tmp_path / "a" / "checkpoints")
    for name in "cdefgh":
        write_run(tmp_path / name, range(1))
    with pytest.raises(TrajectoryError, match=r"runs in .*e, \S+f and 2 more\."):
        Trajectory(tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_says_how_much_is_there(tmp_path, keep):
    path = write_run(tmp_path, range(50))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(TrajectoryError, match=rf"cut short: .* of {len(whole):,} bytes") as error:
        Trajectory(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"step,loss\n", "step,los")])
def test_a_file_of_another_kind(tmp_path, content, said):
    (tmp_path / "trajectory.h5").write_bytes(content)
    with pytest.raises(TrajectoryError, match=f"not an HDF5 file .*{said}"):
        Trajectory(tmp_path)


def test_hdf5_of_somebody_else(tmp_path):
    h5py.File(tmp_path / "trajectory.h5", "w").close()
    with pytest.raises(TrajectoryError, match="no schema_version"):
        Trajectory(tmp_path)


def test_damage_inside_the_file(tmp_path):
    path = write_run(tmp_path, range(50))
    whole = bytearray(path.read_bytes())
    whole[96:4000] = bytes(3904)
    path.write_bytes(whole)
    with pytest.raises(TrajectoryError, match="damaged"):
        print(Trajectory(path))


def test_an_unknown_schema_names_the_version_that_wrote_it(tmp_path):
    path = write_run(tmp_path, range(1))
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 9
        file.attrs["package_version"] = "3.1"
    with pytest.raises(TrajectoryError, match="schema version 9, written by hpc_localsgd 3.1"):
        Trajectory(path)


def test_an_unknown_series_suggests_one(tmp_path):
    write_run(tmp_path, range(1))
    with pytest.raises(TrajectoryError, match="did you mean 'train/loss'.*spread"):
        Trajectory(tmp_path).series("trian/loss")


def test_an_unknown_snapshot_lists_those_there(tmp_path):
    with Writer(tmp_path, header()) as writer:
        writer.snapshot(3, [0.0] * 5)
    run = Trajectory(tmp_path)
    with pytest.raises(TrajectoryError, match="no snapshot at step 4; there are: 3"):
        run.snapshot(4)
    with pytest.raises(TrajectoryError, match="mean model only"):
        run.snapshot(3, workers=True)


def test_without_yaml_the_text_is_still_there(tmp_path, monkeypatch):
    write_run(tmp_path, range(1))
    monkeypatch.setitem(sys.modules, "yaml", None)
    run = Trajectory(tmp_path)
    with pytest.raises(TrajectoryError, match="pip install pyyaml.*config_text"):
        run.config  # noqa: B018
    assert run.config_text.startswith("seed: 7")


def test_an_existing_run_is_not_touched(tmp_path):
    path = write_run(tmp_path, range(5))
    before = path.read_bytes()
    with pytest.raises(TrajectoryError, match='mode="resume".*mode="overwrite"'):
        Writer(tmp_path, header())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["trajectory.h5"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrajectoryError, match="cannot be opened for writing"):
        Writer(tmp_path / "file" / "run", header())


def test_two_writers_on_one_file(tmp_path):
    code = (
        "import sys; from trajectory.runs import header;"
        "from hpc_localsgd.trajectory import Writer;"
        "Writer(sys.argv[1], header(), mode='append')"
    )
    env = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    command = [sys.executable, "-c", code, tmp_path]
    with Writer(tmp_path, header()):
        second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    if second.returncode:  # a file system without locks lets it through
        assert "another process is writing this file" in second.stderr


def test_appending_to_another_model(tmp_path):
    write_run(tmp_path, range(1))
    with pytest.raises(TrajectoryError, match="K=3, P=5; this run has K=3, P=6"):
        Writer(tmp_path, header(P=6), mode="append")
    with pytest.raises(TrajectoryError, match="nothing to append to"):
        Writer(tmp_path / "b", header(), mode="append")


@pytest.mark.parametrize("wrong", [{"K": 0}, {"P": 0}, {"t0": -1}, {"clock": "sundial"}])
def test_a_header_no_run_can_have(wrong):
    with pytest.raises(TrajectoryError):
        header(**wrong)


def test_zeros_among_its_texts_as_a_host_that_went_down_may_leave(tmp_path):
    path = write_run(tmp_path, range(1))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL") + 16  # of HDF5, which would read for ever
    raw[at : at + 512] = bytes(512)
    path.write_bytes(raw)
    with pytest.raises(TrajectoryError, match="its texts are zeros: copy it again"):
        Trajectory(path)
