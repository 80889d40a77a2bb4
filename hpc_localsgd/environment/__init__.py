"""The installation (PyTorch, MPI, Horovod): how it is built, and what is wrong with it.

`build` and `horovod` set an environment up and run on a bare Python (standard library only);
`checks` and `launch_checks` are what the command `doctor` looks at. Who started a process is read
in `hpc_localsgd.engine.launch`. Importing this package imports nothing else.
"""
