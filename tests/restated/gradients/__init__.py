"""See `restated`."""
