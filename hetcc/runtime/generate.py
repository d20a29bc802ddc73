"""Greedy generation on a bundle that holds prefill and decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy

from hetcc.errors import UserError
from hetcc.plan.plan import PhasePlan
from hetcc.runtime.session import Session
from hetcc.stopwatch import silent


def generate_greedy(session: Session, ids: Sequence[int], tokens: int,
                    progress: Callable[[str], None] = silent) -> list[int]:
    """Continue ``ids`` by ``tokens`` greedy tokens.

    The prefill program takes a fixed number of tokens; a prompt at least that long starts with it, and what is left of
    the prompt goes through the decode program one token at a time, so every prompt length is exact and none is padded.

    Raises:
        UserError: HET-B005 without a decode phase, with a batch or with other inputs than tokens, HET-R002 when the
            cache is too short.
    """
    decode = session.plan.phase("decode")
    prefill = next((phase for phase in session.plan.phases if phase.phase == "prefill"), None)
    if decode.batch != 1:
        raise UserError("HET-B005", f"the bundle was compiled for batch {decode.batch}, generation takes one sequence",
                        fix="compile with --batch 1")
    if not ids:
        raise UserError("HET-R002", "the prompt is empty", fix="give at least one token id")
    if len(ids) + tokens > decode.context + 1:
        raise UserError("HET-R002", f"{len(ids)} prompt tokens and {tokens} new ones need more than the "
                        f"{decode.context} entries of the cache", fix="compile with a larger --context")
    session.reset()
    vocabulary = _vocabulary_of(decode)
    if any(not 0 <= token < vocabulary for token in ids):
        raise UserError("HET-R002", f"a token id is not between 0 and {vocabulary - 1}")
    rest = list(ids)
    following = -1
    if prefill is not None and len(rest) >= prefill.tokens:
        following = _step(session, "prefill", rest[:prefill.tokens])
        rest = rest[prefill.tokens:]
    for token in rest:
        following = _step(session, "decode", [token])
    generated = [following]
    while len(generated) < tokens:
        progress(f"generate: token {len(generated) + 1} of {tokens}")
        generated.append(_step(session, "decode", [generated[-1]]))
    return generated[:tokens]


def _vocabulary_of(phase: PhasePlan) -> int:
    """Number of tokens the phase chooses from."""
    inputs = [spec.name for spec in phase.inputs]
    ranked = next((spec for spec in phase.outputs if spec.name == "logits"), None)
    if inputs != ["input_ids"] or ranked is None:
        raise UserError("HET-B005", "generation feeds 'input_ids' alone and reads 'logits'; this program takes "
                        f"{', '.join(inputs)} and gives {', '.join(spec.name for spec in phase.outputs)}",
                        fix="run single steps instead: `hetcc run BUNDLE`")
    return ranked.shape[-1]


def _step(session: Session, phase: str, ids: Sequence[int]) -> int:
    """Feed tokens and return the most likely next one (the lowest id among equals)."""
    trace = session.run(phase, {"input_ids": numpy.asarray([list(ids)], dtype=numpy.int64)}, counting=False)
    return int(numpy.argmax(trace.outputs["logits"][0, -1]))
