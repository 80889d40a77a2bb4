"""What a trajectory alone can tell of a run; nothing here knows the training code."""
