"""torch.export of one phase of a model, on fake tensors, with caches as true inputs."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Callable
from typing import Any

from hetcc.aten.classify import known_operators
from hetcc.aten.complex import is_complex
from hetcc.aten.convert import DATA_DEPENDENT_FIX, InputNames, convert
from hetcc.capture.blame import line_of, place_of
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.static_cache import CacheLayout, make_layout
from hetcc.errors import InternalError, UserError
from hetcc.ir import Graph

LOGITS = "logits"
HIDDEN = "last_hidden_state"
COUNTED = "length as a number"
"""A way to take a step: the cache says how many tokens it holds as a number, not as a tensor."""


def _decoder_step(model: Any, layout: CacheLayout, context: int, spelled: tuple[str, ...]) -> Any:
    """A module ``(input_ids, caches) -> logits`` whose only state is its inputs.

    Args:
        model: a causal language model of transformers.
        layout: its caches.
        context: entries of each.
        spelled: arguments that the model would otherwise derive itself, given as ``generate`` gives them.
    """
    import torch

    class DecoderStep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = model

        def forward(self, input_ids: Any, caches: list[Any]) -> Any:
            cache = layout.bind(caches)
            batch, tokens = input_ids.shape
            given = {}
            if COUNTED in spelled:
                _count_once(cache, context - tokens)
            if "position_ids" in spelled:
                positions = torch.arange(tokens, device=input_ids.device) + cache.get_seq_length()
                given["position_ids"] = positions.expand(batch, tokens)
            if "attention_mask" in spelled:  # what lies behind the newest token is masked by being in the future
                given["attention_mask"] = torch.ones((batch, context), dtype=torch.long, device=input_ids.device)
            return self.program(input_ids=input_ids, past_key_values=cache, use_cache=True, **given).logits

    return DecoderStep()


def _count_once(cache: Any, limit: int) -> None:
    """Let a cache answer with one number between 0 and ``limit`` from now on, whenever it is asked for its length.

    Taken from its tensor anew each time, two answers would be two unknown numbers, whose difference is unknown too.
    """
    import torch

    length = cache.get_seq_length()
    if isinstance(length, torch.Tensor):
        number = length.item()
        torch._check(number >= 0)
        torch._check(number <= limit)
        cache.get_seq_length = lambda layer_idx=0: number


def _ways(model: Any) -> tuple[tuple[str, ...], ...]:
    """What to give a decoder, the least first: arguments that follow from how many tokens its cache holds."""
    known = inspect.signature(model.forward).parameters
    names = tuple(name for name in ("position_ids", "attention_mask") if name in known)
    given = tuple(names[:count] for count in range(len(names) + 1))
    counted = ((COUNTED,), ("attention_mask", COUNTED)) if "attention_mask" in names else ((COUNTED,),)
    return (*given, *counted)


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
        # Where it stops, torch prints the whole graph so far to stderr.
        with (torch.no_grad(), _use_lazy_graph_module(True), warnings.catch_warnings(),
              contextlib.redirect_stderr(io.StringIO())):
            warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own internals
            program = torch.export.export(module, arguments, kwargs=keywords, strict=False)
            return _in_known_operators(program.run_decompositions())
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError,
            ImportError) as error:
        raise UserError("HET-C004", f"torch.export stopped: {line_of(error)}", where=place_of(error),
                        fix=DATA_DEPENDENT_FIX) from error


def _in_known_operators(program: Any) -> Any:
    """The same program with operators that have no class spelt out as torch itself defines them, where it does."""
    import torch
    from torch._decomp import get_decompositions

    known = known_operators()
    unknown = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
               and node.target._schema.name.removeprefix("aten::") not in known
               and not any(map(is_complex, (node, *node.all_input_nodes)))}  # those become pairs of real numbers
    definitions = get_decompositions(sorted(unknown, key=str))
    if not definitions:
        return program
    table = torch.export.default_decompositions()
    table.update(definitions)
    return program.run_decompositions(table)


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
    input_ids = torch.zeros((request.batch, tokens), dtype=torch.long)

    def decoder(spelled: tuple[str, ...]) -> Callable[[], Graph]:
        layout = make_layout(model, request.batch, request.context, empty=phase is Phase.PREFILL)
        step = _decoder_step(model, layout, request.context, spelled)
        return lambda: _decoder_graph(export_program(step, (input_ids, layout.tensors())), layout, name)

    return _first_that_works(decoder, _ways(model))


def _decoder_graph(program: Any, layout: CacheLayout, name: str) -> Graph:
    placeholders = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    caches = dict(zip(placeholders[1:], layout.names, strict=True))
    return convert(program, InputNames({placeholders[0]: "input_ids"}, caches, "program."), name, (LOGITS,))


def _first_that_works(prepare: Callable[[tuple[str, ...]], Callable[[], Graph]],
                      ways: tuple[tuple[str, ...], ...]) -> Graph:
    """The capture by the first of ``ways`` that succeeds.

    Models that count the tokens of their cache in Python numbers to know positions or masks cannot be traced; given
    both as tensors they have nothing to count. Those that do not take them count with one number of known bounds.

    Raises:
        UserError: HET-C004, what the first way says.
    """
    first: UserError | None = None
    for way in ways:
        capture = prepare(way)
        try:
            return capture()
        except UserError as error:
            if error.code != "HET-C004":
                raise
            first = first or error
    raise first or InternalError("HET-I001", "no capture was tried")
