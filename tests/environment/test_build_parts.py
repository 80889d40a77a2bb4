"""The pure parts of `make env`: nothing here installs or compiles anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_localsgd.environment import build, gpu, mpi, patches, prerequisites, recipe, stages, stamp

ROOT = Path(__file__).resolve().parents[2]


def program(folder: Path, name: str, body: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- stamp -------------------------------------------------------------------------------------


def test_a_stamp_round_trips_and_tells_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "stamp.json"
    assert stamp.read(path) == {}
    stamp.write(path, {"torch": "2.13.0", "mpi": "a"})
    assert stamp.differences(stamp.read(path), {"torch": "2.14.0", "mpi": "a"}) == ["torch"]
    assert [p.name for p in tmp_path.iterdir()] == ["stamp.json"]


def test_half_a_stamp_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "stamp.json"
    path.write_text('{"torch": "2.1')
    assert stamp.read(path) == {}


def test_up_to_date_means_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Path] = []
    monkeypatch.setattr(stages, "build", lambda venv, *_: done.append(venv))
    monkeypatch.setattr(prerequisites, "problems", lambda: [])
    for _ in range(2):
        assert build.main(["--venv", str(tmp_path)]) == 0
    assert done == [tmp_path]
    assert "up to date" in capsys.readouterr().out


def test_a_link_is_followed_also_to_where_nothing_is_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, scratch = tmp_path / "link", tmp_path / "scratch"
    link.symlink_to(scratch)

    def make(venv: Path, *_: object) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)

    monkeypatch.setattr(stages, "build", make)
    monkeypatch.setattr(prerequisites, "problems", lambda: [])
    assert build.main(["--venv", str(link)]) == 0
    assert (scratch / "bin" / "python").exists()


def test_another_torch_in_the_environment_is_noticed(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    (site / "torch_scatter-1.0.dist-info").mkdir()
    assert stages.installed(tmp_path) == {"torch": "2.13.0+cpu"}
    before = build.fingerprint(tmp_path, None)
    (site / "torch-2.13.0+cpu.dist-info").rename(site / "torch-2.14.0.dist-info")
    assert stamp.differences(before, build.fingerprint(tmp_path, None)) == ["torch"]


# --- prerequisites -----------------------------------------------------------------------------


def test_no_compiler_is_one_plain_sentence(tmp_path: Path) -> None:
    sentence = prerequisites.compiler_problem({"PATH": str(tmp_path)})
    assert sentence is not None
    assert "apt-get install g++" in sentence
    assert "\n" not in sentence


def test_an_old_compiler_is_told_apart_from_none(tmp_path: Path) -> None:
    program(tmp_path, "g++", "exit 1")
    sentence = prerequisites.compiler_problem({"PATH": str(tmp_path)})
    assert sentence is not None and "C++20" in sentence


def test_a_named_compiler_wins(tmp_path: Path) -> None:
    program(tmp_path, "g++")
    mine = program(tmp_path, "my-cxx")
    found = prerequisites.find_compiler({"PATH": str(tmp_path), "CXX": "my-cxx -O1"})
    assert found == str(mine)


def test_unsupported_python_names_a_supported_one() -> None:
    assert prerequisites.python_problem((3, 11)) is None
    sentence = prerequisites.python_problem((3, 9))
    assert sentence is not None and "3.10 to 3.13" in sentence


def test_missing_venv_and_headers(tmp_path: Path) -> None:
    assert "python3-venv" in str(prerequisites.venv_problem(lambda name: None))
    assert "python3-dev" in str(prerequisites.headers_problem(tmp_path))


# --- which MPI ---------------------------------------------------------------------------------


def test_the_mpi_on_path_comes_before_the_wheel(tmp_path: Path) -> None:
    venv, cluster = tmp_path / "venv", tmp_path / "cluster"
    program(venv / "bin", "mpicxx")
    own = program(cluster, "mpicxx")
    program(cluster, "mpirun", "echo 'mpirun (Open MPI) 4.1.4'; echo more")
    path = os.pathsep.join([str(venv / "bin"), str(cluster), os.environ["PATH"]])
    found = mpi.find({"PATH": path}, venv)
    assert found == mpi.MpiCompiler(own, "mpirun (Open MPI) 4.1.4")


def test_the_wheel_is_the_last_resort_and_not_the_machines_own(tmp_path: Path) -> None:
    wheel = program(tmp_path / "bin", "mpicxx")
    program(tmp_path / "bin", "mpirun", "echo v5")
    environ = {"PATH": str(tmp_path / "bin")}
    assert mpi.find_own(environ, tmp_path) is None
    assert mpi.find(environ, tmp_path) == mpi.MpiCompiler(wheel, "v5")


def test_a_wrong_mpicxx_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="MPICXX=nowhere"):
        mpi.find_own({"MPICXX": "nowhere", "PATH": str(tmp_path)}, tmp_path)


# --- Horovod -----------------------------------------------------------------------------------


def fake_source(folder: Path) -> Path:
    """A source tree with the lines the patches look for, and a comment that must stay."""
    for patch in patches.PATCHES:
        path = folder / patch.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else "# set by hand: CMAKE_CXX_STANDARD\n"
        path.write_text(before + patch.old + "\n")
    return folder


def test_the_patches(tmp_path: Path) -> None:
    patches.apply(fake_source(tmp_path))
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        text = (tmp_path / name).read_text()
        assert "set(CMAKE_CXX_STANDARD 20)" in text and "14" not in text
        assert text.startswith("# set by hand")


def test_a_source_that_is_not_the_expected_one_stops_the_build(tmp_path: Path) -> None:
    source = fake_source(tmp_path)
    (source / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 17)\n")
    with pytest.raises(ValueError, match="exactly once"):
        patches.apply(source)


def test_what_the_build_is_told(tmp_path: Path) -> None:
    found = mpi.MpiCompiler(tmp_path / "mpi" / "mpicxx", "v5")
    environ = {"PATH": "/usr/bin", "MAKEFLAGS": "w -- VENV=.venv"}
    env = recipe.build_environment(environ, found, gpu.Gpu(), tmp_path)
    assert "HOROVOD_GPU" not in env
    assert env["HOROVOD_WITH_MPI"] == env["HOROVOD_WITH_PYTORCH"] == env["HOROVOD_WITH_GLOO"] == "1"
    assert env["PATH"].startswith(str(tmp_path / "mpi"))
    assert env["MAKEFLAGS"].startswith("-j")
    assert "HOROVOD_GPU_OPERATIONS" not in env


def cuda_toolkit(home: Path) -> Path:
    for folder, name in (("bin", "nvcc"), ("include", "cuda_runtime.h"), ("lib64", "libcudart.so")):
        program(home / folder, name)
    return home


def test_nccl_is_found_where_it_is_named(tmp_path: Path) -> None:
    program(tmp_path / "nccl" / "include", "nccl.h")
    program(tmp_path / "nccl" / "lib", "libnccl.so.2")
    cuda = cuda_toolkit(tmp_path / "cuda")
    found = gpu.find_nccl({"NCCL_HOME": str(tmp_path / "nccl")}, tmp_path, cuda)
    assert found == gpu.Nccl(tmp_path / "nccl" / "include", tmp_path / "nccl" / "lib")
    env = recipe.build_environment({}, None, gpu.Gpu(cuda, found), tmp_path)
    assert env["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert env["HOROVOD_CUDA_HOME"] == str(cuda)
    assert env["HOROVOD_WITHOUT_MPI"] == "1"


def test_half_a_cuda_toolkit_is_none(tmp_path: Path) -> None:
    cuda = cuda_toolkit(tmp_path / "cuda")
    assert gpu.find_cuda_home({"CUDA_HOME": str(cuda), "PATH": ""}) == cuda
    (cuda / "include" / "cuda_runtime.h").unlink()
    assert gpu.find_cuda_home({"CUDA_HOME": str(cuda), "PATH": ""}) != cuda


def test_torch_is_read_without_importing_it() -> None:
    cpu = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
    assert gpu.parse_version(cpu) == gpu.TorchBuild("2.13.0+cpu", None)
    assert gpu.parse_version(cpu.replace("None", "'13.0'")) == gpu.TorchBuild("2.13.0+cpu", "13.0")
    assert gpu.parse_version("") is None


# --- the environment's folder ------------------------------------------------------------------


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(stages.StageFailed, match="not made by make env"):
        stages.create_venv(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_an_environment_of_another_python_or_place_is_not_usable(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text(f'VIRTUAL_ENV="{tmp_path}"\n')
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    assert stages.is_usable(tmp_path, "3.11.7")
    assert not stages.is_usable(tmp_path, "3.12.1")
    (tmp_path / "bin" / "activate").write_text('VIRTUAL_ENV="/somewhere/else"\n')
    assert not stages.is_usable(tmp_path, "3.11.7")


def test_the_entry_runs_on_a_bare_python() -> None:
    # -S hides every installed package: what make env runs may import the standard library only.
    script = ROOT / "hpc_localsgd" / "environment" / "build.py"
    command = [sys.executable, "-S", "-E", str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_environments_own_mpirun_puts_ranks_where_they_are_asked_to(tmp_path: Path) -> None:
    stages.put_ranks_where_asked(tmp_path)  # nothing there yet
    settings = tmp_path / stages.LAUNCHER_SETTINGS
    settings.parent.mkdir()
    came = "# what came with the wheel\n"
    settings.write_text(
        f"{came}\n# More ranks than cores are wanted here.\n{stages.OVERSUBSCRIBE}\n"
    )
    for _ in range(2):
        stages.put_ranks_where_asked(tmp_path)
        assert settings.read_text() == came


@pytest.mark.parametrize("name", ["", "my env"])
def test_make_takes_one_folder_for_the_environment(name: str) -> None:
    """`make clean VENV="my env"` would remove `my`."""
    make = ["make", "-n", "clean", f"VENV={name}"]
    alone = {k: v for k, v in os.environ.items() if not k.startswith("M")}  # MAKELEVEL, MAKEFLAGS
    done = subprocess.run(make, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "without a blank" in done.stderr and not done.stdout
