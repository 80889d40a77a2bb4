"""What is changed in Horovod's source so that Python's threads run while one waits in Horovod.

Its functions are called with the interpreter locked, and take the lock of a table that Horovod's
background thread holds while it waits for the other ranks. When a link went down no thread of this
process ran any more: no watchdog, no signal handler. Standard library only.
"""

from __future__ import annotations

from hpc_localsgd.environment.patch import Patch

_LETS_GO = "no function of Horovod keeps the interpreter locked while it waits"

TO_LET_GO = (
    Patch(
        "horovod/torch/mpi_ops_v2.cc",
        "PYBIND11_MODULE(mpi_lib_v2, m) {\n",
        "class Module : public py::module_ {\n"
        "public:\n"
        "  explicit Module(const py::module_& m) : py::module_(m) {}\n"
        "  template <typename Function> void def(const char* name, Function function) {\n"
        "    py::module_::def(name, function, py::call_guard<py::gil_scoped_release>());\n"
        "  }\n"
        "};\n"
        "\n"
        "PYBIND11_MODULE(mpi_lib_v2, made) {\n"
        "  Module m(made);\n"
        '  m.attr("lets_go") = true;\n',
        _LETS_GO,
    ),
    Patch(
        "horovod/torch/mpi_ops_v2.cc",
        "      py::gil_scoped_release release_python_gil;\n",
        "",
        "it is released already, by the patch above",
    ),
)
