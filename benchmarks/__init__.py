"""Scripts that measure; `netlab` and `collectives` are also imported from here."""
