"""How a node is refused that no stage can do."""

from __future__ import annotations

from hetcc.backends.contract import Rejected


class Unstreamable(Exception):
    """Ends the composing of one node; carries the verdict. Never leaves the back end."""

    def __init__(self, rule: str, limit: object = "", actual: object = "") -> None:
        self.verdict = Rejected(rule, str(limit), str(actual))
        super().__init__(rule)


__all__ = ["Unstreamable"]
