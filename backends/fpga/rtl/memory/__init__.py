"""Between the masters and the core: bursts, streams, feeders and writers."""
