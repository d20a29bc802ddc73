"""torch.export of one phase of a model, on fake tensors, with caches as true inputs."""

from __future__ import annotations

import warnings
from typing import Any

from hetcc.aten.convert import InputNames, convert
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.static_cache import CacheLayout, make_layout
from hetcc.errors import UserError
from hetcc.ir import Graph

LOGITS = "logits"
HIDDEN = "last_hidden_state"


def _decoder_step(model: Any, layout: CacheLayout) -> Any:
    """A module ``(input_ids, caches) -> logits`` whose only state is its inputs."""
    import torch

    class DecoderStep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = model

        def forward(self, input_ids: Any, caches: list[Any]) -> Any:
            outputs = self.program(input_ids=input_ids, past_key_values=layout.bind(caches), use_cache=True)
            return outputs.logits

    return DecoderStep()


def _encoder_step(model: Any) -> Any:
    import torch

    class EncoderStep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.program(input_ids=input_ids, attention_mask=attention_mask)[0]

    return EncoderStep()


def export_program(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any] | None = None) -> Any:
    """Exported and decomposed program of ``module`` called with ``arguments`` and ``keywords``.

    Raises:
        UserError: HET-C004, torch.export cannot trace the module.
    """
    import torch
    from torch.fx._lazy_graph_module import _use_lazy_graph_module

    try:
        # Exporting rewrites its modules a hundred times; lazy ones write their Python code only when they are called.
        with torch.no_grad(), _use_lazy_graph_module(True), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own internals
            program = torch.export.export(module, arguments, kwargs=keywords, strict=False)
            return program.run_decompositions()
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, AssertionError) as error:
        line = str(error).strip().splitlines()
        raise UserError("HET-C004", f"torch.export stopped: {line[0] if line else type(error).__name__}",
                        fix="see the chained error; data-dependent control flow has to be made static") from error


def export_phase(model: Any, phase: Phase, request: CaptureRequest) -> Graph:
    """The Graph of one phase of a (fake) transformers model. Call it inside the model's fake mode."""
    import torch

    name = f"{request.model}:{phase.value}"
    if phase is Phase.ENCODE:
        shape = (request.batch, request.context)
        arguments: tuple[Any, ...] = (torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long))
        program = export_program(_encoder_step(model), arguments)
        return convert(program, InputNames({}, {}, "program."), name, (HIDDEN,))
    tokens = 1 if phase is Phase.DECODE else request.prompt_tokens
    layout = make_layout(model, request.batch, request.context, empty=phase is Phase.PREFILL)
    input_ids = torch.zeros((request.batch, tokens), dtype=torch.long)
    program = export_program(_decoder_step(model, layout), (input_ids, layout.tensors()))
    placeholders = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    caches = dict(zip(placeholders[1:], layout.names, strict=True))
    return convert(program, InputNames({placeholders[0]: "input_ids"}, caches, "program."), name, (LOGITS,))
