"""Numbers and seconds for a reader, and for Slurm."""

from __future__ import annotations

import math


def grouped(number: float) -> str:
    """Format a whole number for a reader: ``93,600``."""
    return f"{number:,.0f}"


def percent(share: float) -> str:
    """Format a share for a reader: ``25.0 %``, and below one percent two digits: ``0.034 %``."""
    value = 100 * share
    return f"{value:.2g} %" if 0 < value < 0.995 else f"{value:.1f} %"


def human_seconds(seconds: float) -> str:
    """Format seconds for a reader: ``12 ms``, ``90 s``, ``7.4 min``, ``7 h 05 min``, or ``-``."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 119.5:
        return f"{1000 * seconds:.3g} ms" if 0 < seconds < 0.9995 else f"{seconds:.3g} s"
    if seconds < 3597:  # 59.95 min
        return f"{seconds / 60:.3g} min"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def slurm_time(seconds: float) -> str:
    """Format a time limit for Slurm, rounded up to minutes: ``36:20:00``."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
