"""What every experiment on a claim shares; `side_by_side`, which it needs, lies two folders up."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
