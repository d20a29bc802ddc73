"""The streaming kernel as data: stages over named loops, their arithmetic to the bit, and the functional model."""
