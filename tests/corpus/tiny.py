"""Tiny configurations of transformers model types: small enough to compile in seconds, every mechanism still there."""

from __future__ import annotations

from hetcc.capture.model import CaptureRequest, Phase

_COMMON = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
           "vocab_size": 128}
_SPARSE = {**_COMMON, "num_hidden_layers": 4, "num_key_value_heads": 4, "moe_intermediate_size": 32, "kv_lora_rank": 32,
           "q_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "index_n_heads": 4,
           "index_head_dim": 16, "index_topk": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
           "topk_group": 1}
OVERRIDES: dict[str, dict[str, int | str]] = {
    "deepseek_v32": _SPARSE,
    "glm_moe_dsa": {**_SPARSE, "n_group": 1, "num_hidden_layers": 2, "mlp_layer_types": '["dense", "sparse"]'},
    "llama": {**_COMMON, "num_key_value_heads": 2},
    "qwen3": {**_COMMON, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_oss": {**_COMMON, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
                "sliding_window": 16},
    "mamba2": {"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 128, "num_heads": 8, "head_dim": 16,
               "state_size": 16, "n_groups": 2},
    "mixtral": {**_COMMON, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
}
CONTEXT = 64
PROMPT = 12


def tiny(model: str, *phases: Phase, weights: str = "random:0", context: int = CONTEXT,
         **changes: int | str) -> CaptureRequest:
    """A capture request for a tiny model."""
    overrides = {**OVERRIDES[model], **changes}
    return CaptureRequest(model, phases or (Phase.DECODE,), context=context, prompt=PROMPT, weights=weights,
                          overrides=tuple((key, str(value)) for key, value in overrides.items()))
