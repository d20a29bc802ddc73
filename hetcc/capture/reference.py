"""Hugging Face's own answers, to compare with: same weights, same tokens, eager mode, its own cache."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.weights import build_random, to_numpy
from hetcc.errors import UserError

Array = numpy.ndarray


@dataclass(frozen=True)
class SelectionReference:
    """What the reference selected at one place."""

    scores: Array
    """Scores it selected from, last axis the memory."""
    indices: Array
    """What it took."""


@dataclass(frozen=True)
class ReferenceStep:
    """One step of the reference."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    selections: Mapping[str, SelectionReference]
    """By value name of the selected indices."""


@dataclass(frozen=True)
class ReferenceRun:
    """Caches before the first step, and the steps."""

    caches: Mapping[str, Array]
    steps: tuple[ReferenceStep, ...]


class HuggingFaceReference:
    """Eager transformers with the weights of a request.

    Raises:
        UserError: HET-C005, the request binds no weights.
    """

    def __init__(self, request: CaptureRequest) -> None:
        from hetcc.capture import _quiet_transformers
        from hetcc.capture.source import resolve

        _quiet_transformers()
        self.request = request
        self.source = resolve(request)
        self.model = self._build()

    def _build(self) -> Any:
        request, source = self.request, self.source
        if request.weights.startswith("random:"):
            return build_random(source, int(request.weights.removeprefix("random:")), reference=True)
        if not request.weights:
            raise UserError("HET-C005", "the model was compiled without weights, so there is nothing to compare",
                            fix="compile with --weights DIR or --weights random:SEED")
        directory = source.directory if request.weights == "checkpoint" else request.weights
        return source.model_class.from_pretrained(
            str(directory), config=source.config, local_files_only=True, dtype=source.config.dtype,
            attn_implementation="eager").eval().requires_grad_(False)

    def decode(self, seed: int, history: int, steps: int) -> ReferenceRun:
        """Decode ``steps`` random tokens after ``history`` random ones.

        The reference uses the cache class that Hugging Face would; what it holds after the history is handed out in the
        layout of the captured program.
        """
        from transformers import DynamicCache

        tokens = self._tokens(seed, history + steps)
        cache = DynamicCache(config=self.model.config)
        if history:
            self._recorded(tokens[:, :history], cache)
        caches = self._in_captured_layout(cache, history)
        done = [self._recorded(tokens[:, position:position + 1], cache) for position in range(history, history + steps)]
        return ReferenceRun(caches, tuple(done))

    def prefill(self, seed: int) -> ReferenceRun:
        """One prefill of random tokens into empty caches."""
        from transformers import DynamicCache

        tokens = self._tokens(seed, self.request.prompt_tokens)
        cache = DynamicCache(config=self.model.config)
        caches = self._in_captured_layout(cache, 0)
        return ReferenceRun(caches, (self._recorded(tokens, cache),))

    def encode(self, seed: int) -> ReferenceRun:
        """One encoder pass over random tokens."""
        import torch

        tokens = self._tokens(seed, self.request.context)
        mask = torch.ones_like(tokens)
        with torch.no_grad():
            hidden = self.model(input_ids=tokens, attention_mask=mask)[0]
        inputs = {"input_ids": to_numpy(tokens), "attention_mask": to_numpy(mask)}
        return ReferenceRun({}, (ReferenceStep(inputs, {"last_hidden_state": to_numpy(hidden)}, {}),))

    def run(self, phase: Phase, seed: int, history: int, steps: int) -> ReferenceRun:
        """The reference for a phase."""
        if phase is Phase.ENCODE:
            return self.encode(seed)
        return self.prefill(seed) if phase is Phase.PREFILL else self.decode(seed, history, steps)

    def generate(self, ids: Sequence[int], tokens: int) -> list[int]:
        """Greedy continuation by ``model.generate``."""
        import torch

        prompt = torch.tensor([list(ids)], dtype=torch.long)
        with torch.no_grad(), record_selections(self.model):
            whole = self.model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                                        attention_mask=torch.ones_like(prompt), pad_token_id=0)
        return [int(token) for token in whole[0, len(ids):]]

    def _tokens(self, seed: int, count: int) -> Any:
        import torch

        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.model.config.vocab_size, (self.request.batch, count), generator=generator)

    def _forward(self, tokens: Any, cache: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.model(input_ids=tokens, past_key_values=cache, use_cache=True).logits

    def _in_captured_layout(self, cache: Any, history: int) -> dict[str, Array]:
        """What a growing cache holds, put where the captured program's static caches have it.

        A growing tensor differs from its static counterpart in one axis, that of the tokens; its last entry is the
        newest, so a sliding window's few entries also come to their places. Whole numbers count the tokens so far.
        """
        from hetcc.capture.static_cache import make_layout

        layout = make_layout(self.model, self.request.batch, self.request.context)
        found = {}
        for slot, empty in zip(layout.slots, layout.tensors(), strict=True):
            name = slot.name
            if empty.dim() == 0:
                found[name] = to_numpy(empty + history)
                continue
            grown = slot.get(cache)
            if history and grown is not None:
                axis = next((place for place in range(empty.dim()) if empty.shape[place] != grown.shape[place]), 0)
                kept = grown.shape[axis]
                empty.narrow(axis, max(history - kept, 0) if axis else 0, kept).copy_(grown)
            found[name] = to_numpy(empty).copy()
        return found

    def _recorded(self, tokens: Any, cache: Any) -> ReferenceStep:
        with record_selections(self.model) as selections:
            logits = self._forward(tokens, cache)
        return ReferenceStep({"input_ids": to_numpy(tokens)}, {"logits": to_numpy(logits)}, dict(selections))


def reference_of(request: CaptureRequest) -> Any:
    """The reference for whatever kind of model a request names."""
    if request.model.endswith(".onnx"):
        from hetcc.capture.onnx_reference import OnnxReference

        return OnnxReference(request)
    if ".py:" in request.model or request.model.endswith(".pt2"):
        from hetcc.capture.program import ProgramReference

        return ProgramReference(request)
    return HuggingFaceReference(request)


@contextlib.contextmanager
def record_selections(model: Any) -> Iterator[dict[str, SelectionReference]]:
    """Every top-k that runs while the context is open, under the name its indices have in the captured graph.

    Equal scores are taken in the order of their indices, an order torch does not promise but every valid run may have.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from hetcc.aten.stable import stable_topk

    found: dict[str, SelectionReference] = {}
    path: list[str] = [""]
    counts: Counter[str] = Counter()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not torch.ops.aten.topk.default:
                return func(*args, **(kwargs or {}))
            result = stable_topk(*args, **(kwargs or {}))
            base = f"{path[-1]}/topk" if path[-1] else "topk"
            name = base if counts[base] == 0 else f"{base}.{counts[base]}"
            counts[base] += 1
            found[f"{name}:1"] = SelectionReference(to_numpy(args[0]).copy(), to_numpy(result[1]).copy())
            return result

    def leave(*_: Any) -> None:
        path.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        with Recorder():
            yield found
    finally:
        for handle in handles:
            handle.remove()
