"""What a compiled tiny model has to show, whatever its type; the tests of several files call these."""

from __future__ import annotations

import pytest

import hetcc
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice

from corpus.tiny import CONTEXT, PROMPT, tiny

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))
"""The mapping published for sparse attention (arXiv 2603.29002)."""
HISTORIES = {0: CONTEXT // 2 + 1, 1: 5, 2: CONTEXT - 3}
"""Tokens in the cache before the compared steps, by seed: beyond top-k, below it, and up to the last entry."""
STEPS = 3


class TinyBundles:
    """Compiles tiny models for this machine alone, each distinct request once."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self.folders = folders
        self.made: dict[object, hetcc.Bundle] = {}

    def get(self, model: str, forced: tuple[tuple[str, str], ...] = ()) -> hetcc.Bundle:
        """The bundle with prefill and decode of a model."""
        key = (model, forced)
        if key not in self.made:
            options = CompileOptions(tiny(model, Phase.PREFILL, Phase.DECODE), choice=PlacementChoice(forced=forced),
                                     emission=EmissionOptions(("llvm-cpu",), verilog=False))
            self.made[key] = hetcc.compile(options, self.folders.mktemp(model) / "bundle")
        return self.made[key]


def check_decode(bundle: hetcc.Bundle, seed: int, selecting_layers: int) -> None:
    """Logits to 1e-4, selections identical, nothing on the host, over three steps."""
    result = bundle.verify("decode", seed=seed, history=HISTORIES[seed], steps=STEPS)
    assert result.passed, result
    assert result.relative_error < 1e-4
    assert result.coverage.flops.get("host", 0.0) == 0.0
    assert result.selections.compared == selecting_layers * STEPS
    assert result.selections.equal == result.selections.compared - result.selections.ties


def check_prefill(bundle: hetcc.Bundle, seed: int, selecting_layers: int) -> None:
    """Logits of every prompt position to 1e-4."""
    result = bundle.verify("prefill", seed=seed)
    assert result.passed, result
    assert result.selections.compared == selecting_layers * PROMPT


def check_greedy(bundle: hetcc.Bundle) -> None:
    """32 tokens, from a prompt longer than one prefill step and from one shorter."""
    for length in (PROMPT + 4, PROMPT - 5):
        prompt = [(7 * position + 3) % 128 for position in range(length)]
        assert bundle.generate(prompt, 32) == bundle.reference.generate(prompt, 32)


def check_routing_is_not_memory(bundle: hetcc.Bundle) -> None:
    """Choosing experts is a top-k too, and no stage of a memory pipeline."""
    tagged = bundle.tagged("decode")
    routing = [node.name for node in tagged.graph.nodes
               if node.operator.name == "topk" and "mlp" in node.provenance.module_path]
    assert routing
    assert all(tagged.stage_of(name) is None for name in routing)
