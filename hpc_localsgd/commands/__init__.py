"""The command line: one file or folder a command, and what turns options into a run."""
