"""The command line called in this process, and settings that make models tiny."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetcc.cli import main

TINY_LLAMA = ("num_hidden_layers=1", "hidden_size=32", "intermediate_size=48", "num_attention_heads=2",
              "num_key_value_heads=2", "vocab_size=64")
TINY_SPARSE = (
    "num_hidden_layers=2", "first_k_dense_replace=1", "hidden_size=64", "intermediate_size=96",
    "moe_intermediate_size=32", "num_attention_heads=4", "num_key_value_heads=4", "kv_lora_rank=32", "q_lora_rank=48",
    "qk_nope_head_dim=16", "qk_rope_head_dim=8", "v_head_dim=16", "index_n_heads=4", "index_head_dim=16",
    "index_topk=8", "n_routed_experts=8", "num_experts_per_tok=2", "n_group=2", "topk_group=1", "vocab_size=128")


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout, which must be one JSON document."""
        return json.loads(self.out)


def settings(pairs: Sequence[str]) -> list[str]:
    """``--set`` options."""
    return [word for pair in pairs for word in ("--set", pair)]


def hetcc(*arguments: object) -> CommandResult:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return CommandResult(code, out.getvalue(), err.getvalue())
