"""Floor 0: what is known before a run. Pure functions, no torch, no communication."""
