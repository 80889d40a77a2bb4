"""Where workers live and how they talk."""
