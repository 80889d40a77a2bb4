"""What every experiment on a claim shares; `reporting`, which it needs, lies two folders up."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
