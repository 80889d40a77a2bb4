"""The cost model: what a run sends and how long that takes, known before it starts. No torch."""
