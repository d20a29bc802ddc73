"""Numbers and formulas: how much work a node is, what a device charges for it, what a link charges for a tensor.

``work`` counts, ``device`` and ``transfer`` read profiles, ``price`` and ``transfer`` put the two together. Nothing
here knows about placement, and nothing here needs torch.
"""
