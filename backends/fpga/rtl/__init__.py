"""The stage library as hardware, written with Amaranth; bit for bit what ``functional`` computes."""
