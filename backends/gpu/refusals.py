"""What the compilers refused or crashed on, kept so that it is not tried at every compile.

A refusal stands under the key that the code itself would have had, so other versions of the tools, other flags or
another program are tried. What may end otherwise the next time (a child that was killed from outside, say for want of
memory) is not kept; ``--fresh`` tries everything again.
"""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.backends.contract import Rejected
from hetcc.store import Store, key_of

_FROM_OUTSIDE = frozenset(f"crashed with {signal}" for signal in ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM"))
_BY_ITSELF = ("crashed with ", "not finished after ")


def may_pass_again(reason: str, *, complained: bool) -> bool:
    """Whether what ended for ``reason`` may end otherwise the next time.

    Args:
        reason: how a child process ended (:class:`hetcc.backends.gpu.tools.Outcome`), or what it complained of.
        complained: whether the tool itself said what is wrong with the program. One that ended without a word, crash or
            time limit may just not have started.
    """
    return reason in _FROM_OUTSIDE or not (complained or reason.startswith(_BY_ITSELF))


class Refusals:
    """Refusals by the keys of the code that was not made.

    Args:
        store: where they are kept.
        facts: what else decides the outcome: time limits, programs that stand in for the compiler.
    """

    def __init__(self, store: Store, *facts: str | float) -> None:
        self.store = store
        self.facts = facts

    def get(self, key: str) -> Rejected | None:
        """Why there is no code under ``key``, if that is known."""
        document = self.store.get_document(self._key(key))
        if not isinstance(document, list) or len(document) != 3:
            return None
        rule, limit, actual = map(str, document)
        return Rejected(rule, limit, actual)

    def put(self, found: Mapping[str, Rejected]) -> None:
        """Keep refusals by key."""
        for key, rejected in found.items():
            self.store.put_document(self._key(key), [rejected.rule, rejected.limit, rejected.actual])

    def _key(self, key: str) -> str:
        return key_of("refusal", key, *self.facts)


__all__ = ["Refusals", "may_pass_again"]
