"""What is changed in Horovod 0.28.1's source before it is compiled.

Horovod's last release is older than the torch and the Open MPI it meets today. Every patch is a
text replaced in one file; one that does not find its text stops the build, so nothing is patched by
halves. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from hpc_localsgd.environment.patch import Patch
from hpc_localsgd.environment.patches_for_speed import TO_AVERAGE, TO_REST
from hpc_localsgd.environment.patches_for_the_interpreter import TO_LET_GO

HOROVOD_VERSION = "0.28.1"

TO_BUILD = (
    Patch(
        "setup.py",
        "make_args.append('VERBOSE=1')",
        "pass",
        "pip -v, which shows the progress, would ask for every command too; ninja refuses it",
    ),
    Patch(
        "CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 20)",
        "torch's headers need C++20",
    ),
    Patch(
        "horovod/torch/CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 20)",
        "the torch part sets its own standard again",
    ),
    Patch(
        "horovod/common/group_table.h",
        "#include <queue>\n",
        "#include <queue>\n#include <string>\n",
        "from GCC 13 on, the other headers no longer bring std::string along",
    ),
    Patch(
        "cmake/Modules/FindPytorch.cmake",
        "(torch.version.cuda is not None) and (CUDA_HOME is not None)",
        "(torch.version.cuda is not None) and "
        "__import__('os').environ.get('HOROVOD_GPU') == 'CUDA'",
        "PyPI's torch is a CUDA build; it alone must not demand a CUDA toolkit that is not needed",
    ),
)

TO_START = (
    Patch(
        "horovod/runner/launch.py",
        "def run_commandline():\n",
        "def run_commandline():\n"
        "    os.environ['PATH'] = os.pathsep.join(\n"
        "        [os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])\n",
        "horovodrun calls a bare `mpirun`: find the one beside it, activated or not",
    ),
    Patch(
        "horovod/runner/mpi_run.py",
        "_NO_BINDING_ARGS = ['-bind-to none', '-map-by slot']",
        "_NO_BINDING_ARGS = ['--bind-to none', '--map-by slot']",
        "Open MPI 5 ignores the one-dash spelling, binds to cores, and refuses 4 ranks on 2 cores",
    ),
    Patch(
        "horovod/runner/mpi_run.py",
        "os.execve('/bin/sh', ['/bin/sh', '-c', mpirun_command], env)",
        "os.execve('/bin/sh', ['/bin/sh', '-c', 'exec ' + mpirun_command], env)",
        "a signal to horovodrun must reach mpirun, or the ranks live on as orphans",
    ),
    Patch(
        "horovod/runner/launch.py",
        "(args.log_level))\n\n    _run(args)\n",
        "(args.log_level))\n\n"
        "    try:\n"
        "        _run(args)\n"
        "    except RuntimeError as error:\n"
        "        import re\n"
        "        sys.stderr.write('horovodrun: {}\\n'.format(str(error).strip()))\n"
        "        code = re.search(r'^Exit code: (\\d+)$', str(error), re.MULTILINE)\n"
        "        sys.exit(int(code.group(1)) if code else 1)\n",
        "without MPI it ended with 1 and a traceback of its own, whatever its ranks had said",
    ),
)

PATCHES = TO_BUILD + TO_START + TO_REST + TO_AVERAGE + TO_LET_GO


def apply(source: Path, patches: tuple[Patch, ...] = PATCHES) -> None:
    """Change the unpacked source in place.

    Raises:
        ValueError: A patch's text is not in its file exactly once; that file is unchanged.
    """
    for patch in patches:
        path = source / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            raise ValueError(
                f"{patch.file} does not contain {patch.old!r} exactly once: "
                f"is this Horovod {HOROVOD_VERSION}? (patch: {patch.why})"
            )
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
