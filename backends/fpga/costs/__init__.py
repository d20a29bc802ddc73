"""Closed forms of cycles and resources, and the choice of the width that rests on them."""
