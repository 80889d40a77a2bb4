"""Floor 2: where workers live and how they talk."""
