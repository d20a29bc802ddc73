"""Artefacts of planning that are written to files: placement problems, placements, plans, bundles."""
