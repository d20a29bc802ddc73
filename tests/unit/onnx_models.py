"""Model files for the tests of hetcc.onnx: tiny exports with random weights, and models written as text."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnx.parser
import torch

from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of
from hetcc.onnx import LoadedOnnx, read_weight

CORPUS = Path(__file__).resolve().parent.parent / "corpus"


def corpus_module(name: str) -> Any:
    """A module of tests/corpus, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CORPUS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def text_model(path: Path, text: str, version: int = 20) -> Path:
    """Save a model given in ONNX's text syntax (without its header)."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["":{version}]> g {text}')
    onnx.save(model, path)
    return path


@dataclass(frozen=True)
class Exported:
    """A model file and what was exported."""

    path: Path
    module: torch.nn.Module
    inputs: dict[str, numpy.ndarray]

    def eager(self) -> list[numpy.ndarray]:
        """Outputs of the torch module."""
        with torch.no_grad():
            results = self.module(*(torch.from_numpy(array) for array in self.inputs.values()))
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]


class Logits(torch.nn.Module):
    """A Hugging Face model as a function of ids and mask to one tensor."""

    def __init__(self, model: torch.nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        options = {"use_cache": False} if self.output == "logits" else {}
        return self.model(input_ids=ids, attention_mask=mask, **options)[self.output]


def tiny_llama() -> torch.nn.Module:
    """Two layers of Llama with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return Logits(LlamaForCausalLM(LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64)), "logits").eval()


def tiny_bert() -> torch.nn.Module:
    """Two layers of a BERT encoder, as MiniLM is."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return Logits(BertModel(BertConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64)), "last_hidden_state").eval()


def export(module: torch.nn.Module, inputs: dict[str, numpy.ndarray], path: Path, *, dynamo: bool,
           outputs: list[str], **options: Any) -> Exported:
    """Export ``module`` with one of torch's two exporters."""
    arguments = tuple(torch.from_numpy(array) for array in inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, arguments, str(path), dynamo=dynamo, input_names=list(inputs), output_names=outputs,
                          verbose=False, **options)
    return Exported(path, module, inputs)


def export_ids(module: torch.nn.Module, path: Path, *, dynamo: bool, symbolic: bool) -> Exported:
    """Export a model of ids and mask, with ``batch`` and ``sequence`` left open if ``symbolic``."""
    generator = numpy.random.default_rng(0)
    inputs = {"ids": generator.integers(0, 96, (1, 8)), "mask": numpy.ones((1, 8), numpy.int64)}
    options: dict[str, Any] = {}
    if symbolic and dynamo:
        names = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        options["dynamic_shapes"] = (names, names)
    elif symbolic:
        options["dynamic_axes"] = {name: {0: "batch", 1: "sequence"} for name in inputs}
    if dynamo:
        options["external_data"] = True
    return export(module, inputs, path, dynamo=dynamo, outputs=["out"], **options)


def arguments_of(loaded: LoadedOnnx, inputs: dict[str, numpy.ndarray], graph: Graph | None = None,
                 ) -> dict[str, numpy.ndarray]:
    """An array for each name a program is called with."""
    found = dict(inputs)
    for name in interface_of(graph or loaded.graph):
        if name in loaded.constants:
            found[name] = loaded.constants[name]
        elif name in loaded.weights:
            found[name] = read_weight(loaded.weights[name], loaded.path.parent)
    return found
