"""The ground we stand on: how it is built, how it was launched, and what is wrong with it.

`build` and `horovod` set an environment up and run on a bare Python (standard library only);
`launch` reads who started this process; `checks` and `launch_checks` are what the command `doctor`
looks at. Importing this package imports nothing else.
"""
