"""What keeps a run alive and on record: recorder, probes, checkpoints, stopping, hangs."""
