"""From a region of the graph to a stage graph: one rule per operator class, no method known by name."""
