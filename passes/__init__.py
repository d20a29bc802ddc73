"""Verbs over the graph: normalise, tag, form clusters, estimate, place, schedule."""
