"""Where weights come from: seeds, folders, the model's own buffers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy
import pytest

from hetcc.capture import CapturedModel, CaptureRequest, capture
from hetcc.capture.source import resolve
from hetcc.capture.weights import bind_weights, build_random, model_buffers, read_header
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, Node, OperatorClass, Role, SourceOperator, TensorType, Value
from hetcc.plan.tensors import TensorFile

from corpus.tiny import tiny


def reading(shapes: dict[str, tuple[int, ...]]) -> Graph:
    """A graph that does nothing but read weights of these names and shapes."""
    values = {name: Value(name, TensorType(shape, DType.FLOAT32), Role.PARAMETER) for name, shape in shapes.items()}
    values["y"] = Value("y", TensorType((1,), DType.FLOAT32))
    node = Node("y", SourceOperator("test", "read"), OperatorClass.OPAQUE, tuple(shapes), ("y",))
    return Graph("reader", (node,), values, (), ("y",))


def all_weights(request: CaptureRequest) -> Graph:
    import torch

    with torch.device("meta"):
        model = resolve(request).build()
    return reading({name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)})


@pytest.mark.parametrize("model", ["llama", "gpt_oss", "mixtral", "deepseek_v32"])
def test_a_seed_means_the_same_weights_everywhere(model: str) -> None:
    request = tiny(model, weights="random:7")
    source = resolve(request)
    graph = all_weights(request)
    first, second = (bind_weights(request, source, [graph]).generated for _ in range(2))
    reference = build_random(source, 7, reference=True)
    expected = dict(reference.named_parameters(remove_duplicate=False))
    assert first.keys() == second.keys() == expected.keys()
    for name, tensor in expected.items():
        assert first[name].tobytes() == second[name].tobytes() == tensor.detach().numpy().tobytes(), name
    other = bind_weights(tiny(model, weights="random:8"), source, [graph]).generated
    assert any(other[name].tobytes() != first[name].tobytes() for name in first)


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1"])
def test_a_seed_is_a_number(weights: str) -> None:
    request = tiny("llama", weights=weights)
    with pytest.raises(UserError) as caught:
        bind_weights(request, resolve(request), [all_weights(request)])
    assert caught.value.code == "HET-C005"


@pytest.mark.parametrize("model", ["llama", "gpt_oss", "deepseek_v32"])
def test_buffers_are_those_of_a_real_model(model: str) -> None:
    source = resolve(tiny(model))
    real = dict(source.build().named_buffers(remove_duplicate=False))
    made = model_buffers(source)
    assert made.keys() == real.keys() and made
    for name, buffer in real.items():
        numpy.testing.assert_array_equal(made[name], buffer.numpy(), err_msg=name)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama as ``save_pretrained`` leaves it, in several files."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tied = (*tiny("llama", num_hidden_layers=2).overrides, ("tie_word_embeddings", json.dumps(request.param)))
    source = resolve(CaptureRequest("llama", overrides=tied))
    build_random(source, 3, reference=True).save_pretrained(folder, max_shard_size="60KB")
    return folder


def values_of(captured: CapturedModel) -> Iterable[tuple[str, numpy.ndarray]]:
    for name, reference in captured.weights.items():
        yield name, TensorFile(Path(reference.file)).read(reference.tensor)


def test_a_checkpoint_is_bound_by_reference(checkpoint: Path) -> None:
    assert len(list(checkpoint.glob("*.safetensors"))) > 1
    captured = capture(CaptureRequest(str(checkpoint), context=16, weights="checkpoint"))
    assert captured.has_weights and not captured.generated, "no weight is copied"
    source = resolve(CaptureRequest(str(checkpoint)))
    model = source.model_class.from_pretrained(str(checkpoint))
    expected = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    found = dict(values_of(captured)) | dict(captured.constants)
    graph = captured.graphs["decode"]
    shared = found.keys() & {"lm_head.weight", "model.embed_tokens.weight"}
    assert len(shared) == (1 if source.config.tie_word_embeddings else 2)
    for name, array in found.items():
        assert array.shape == graph.type_of(name).shape
        numpy.testing.assert_array_equal(array, expected[name].detach().numpy(), err_msg=name)


def test_a_tied_weight_is_found_under_its_other_name(checkpoint: Path) -> None:
    request = CaptureRequest(str(checkpoint), weights="checkpoint")
    source = resolve(request)
    graph = reading({"lm_head.weight": (128, 64), "model.embed_tokens.weight": (128, 64), "norm.weight": (64,)})
    found = bind_weights(request, source, [graph]).references
    assert found["norm.weight"].tensor == "model.norm.weight", "the base model's names lack its prefix"
    stored = {found[name].tensor for name in ("lm_head.weight", "model.embed_tokens.weight")}
    assert len(stored) == (1 if source.config.tie_word_embeddings else 2)


def binding_error(folder: Path, request: CaptureRequest, graph: Graph) -> UserError:
    with pytest.raises(UserError) as caught:
        bind_weights(request, resolve(request), [graph])
    assert str(folder) in caught.value.render()
    return caught.value


def test_a_wrong_shape_is_refused(checkpoint: Path) -> None:
    request = CaptureRequest(str(checkpoint), weights="checkpoint")
    error = binding_error(checkpoint, request, reading({"model.norm.weight": (63,)}))
    assert error.code == "HET-C005" and "(63,)" in error.what


def test_a_folder_without_weights_and_a_broken_file(tmp_path: Path) -> None:
    request = tiny("llama", weights=str(tmp_path))
    graph = reading({"model.norm.weight": (64,)})
    assert binding_error(tmp_path, request, graph).code == "HET-C005"
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    error = binding_error(tmp_path, request, graph)
    assert error.code == "HET-C005" and "not a readable safetensors file" in error.what
    (tmp_path / "model.safetensors").write_bytes((10).to_bytes(8, "little") + b"{}        ")
    assert read_header(tmp_path / "model.safetensors") == {}


def test_missing_checkpoints_are_refused() -> None:
    request = tiny("llama", weights="checkpoint")
    with pytest.raises(UserError, match="no checkpoint of its own") as caught:
        bind_weights(request, resolve(request), [reading({})])
    assert caught.value.code == "HET-C005"


def test_a_quantised_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    request = CaptureRequest(str(tmp_path), weights="checkpoint")
    error = binding_error(tmp_path, request, reading({"model.norm.weight": (64,)}))
    assert error.code == "HET-C006" and "fp8" in error.what
