"""Where the data of a kernel lie: stripes over memory channels, registers and masters, and what a channel delivers."""
