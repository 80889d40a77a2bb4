"""One figure a file: what it shows of a trajectory. The look of all is in `analysis.style`."""
