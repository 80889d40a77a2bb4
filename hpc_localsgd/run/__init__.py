"""What surrounds the loop of a run: its record, probes, checkpoints, stopping, and hangs.

The command that starts a run is in `commands/`, the loop itself in `loop.py`.
"""
