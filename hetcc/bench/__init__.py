"""Measuring what devices really do: microbenchmarks, the loop that times them, and profiles fitted to the times."""
