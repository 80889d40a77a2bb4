"""What a person sees of a run: a live line or a log, and a closing table.

Launchers give their ranks a terminal even when their own output is a file, and put a tag in front
of every write: so there is a live line only without a launcher, and every line is one write.
"""

from hpc_localsgd.commands.display.conclusion import conclusion, show_conclusion, straggler
from hpc_localsgd.commands.display.display import Display

__all__ = ["Display", "conclusion", "show_conclusion", "straggler"]
