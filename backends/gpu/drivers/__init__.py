"""Real GPUs: the drivers of AMD and NVIDIA, memory on the card that IREE and raw kernel launches share, and programs.

Nothing here ran on a card where it was written; the tests run it against libraries that stand in for the drivers.
"""
