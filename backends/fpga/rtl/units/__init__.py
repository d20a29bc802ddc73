"""Arithmetic, sorting and selection units of the hardware."""
