"""Formats of figures. A file of its own: `--help` needs the names, and no drawing."""

FORMATS = ("png", "pdf", "svg", "csv")
"""What a figure can be written as; ``csv`` is the numbers in it."""

USUAL = ("png", "pdf", "csv")
"""What is written if nothing else is asked."""

PAPER = "paper"
"""Folder of the single panels, in that of a page."""
