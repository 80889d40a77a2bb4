"""`horovodrun -np 4 python -m hpc_localsgd.train`: the door to `commands.train`."""

from __future__ import annotations

import sys

from hpc_localsgd.commands import interrupted
from hpc_localsgd.commands.output import outlive_readers
from hpc_localsgd.commands.train import main as main
from hpc_localsgd.environment import garbage, headless

if __name__ == "__main__":
    interrupted.say_in_a_line()
    outlive_readers()
    headless.draw_into_files()
    garbage.leave_at_exit()
    sys.exit(main())
