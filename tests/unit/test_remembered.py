"""What is kept of captures and proofs is used for the same question only, and gives back what was put in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc.capture import remembered
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.remembered import CaptureMemory
from hetcc.ir import (
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    OperatorClass,
    Provenance,
    Role,
    SourceOperator,
    TensorType,
    Value,
)
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.remembered import question_of, remembering
from hetcc.store import Store

REQUEST = CaptureRequest("llama", (Phase.DECODE,), overrides=(("num_hidden_layers", "2"),))
FACTS = {"model_class": "LlamaForCausalLM"}


def graph(operator: str = "add", extent: int = 3, swap: bool = False, factor: float = math.inf,
          prefix: str = "") -> Graph:
    """``x + inf * cache`` with an update, in awkward types and attributes."""
    kind = TensorType((2, extent), DType.BFLOAT16)
    x, cache, y = f"{prefix}x", f"{prefix}c", f"{prefix}y"
    inputs = (cache, x) if swap else (x, cache)
    node = Node(f"{prefix}n", SourceOperator("aten", operator, "Tensor"), OperatorClass.ELEMENTWISE, inputs, (y,),
                (Operand(0), Operand(1), (1, None, True)), (("alpha", factor),), (("sizes", (1, 2)),),
                Provenance("model.layers.0", "Layer", "file.py:3"))
    values = {x: Value(x, kind, Role.INPUT), cache: Value(cache, kind, Role.CACHE), y: Value(y, kind)}
    return Graph("g", (node,), values, (x,), (y,), (cache,), (CacheUpdate(cache, y),))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the installed transformers, of which one file was loaded; nothing was loaded before."""
    folder = tmp_path / "transformers"
    folder.mkdir()
    (folder / "modeling.py").write_text("LAYERS = 2", encoding="utf-8")
    monkeypatch.setattr(remembered, "_folder", lambda: folder)
    monkeypatch.setattr(remembered, "_loaded_files", lambda: ["modeling.py"])
    monkeypatch.setattr(remembered, "_nothing_loaded", lambda: True)
    return folder


def test_a_capture_comes_back_as_it_was(tmp_path: Path, library: Path) -> None:
    graphs = {"decode": graph(), "prefill": graph("mul", 5, factor=-0.1)}
    assert CaptureMemory(REQUEST, Store(tmp_path)).read() is None
    CaptureMemory(REQUEST, Store(tmp_path)).write(graphs, FACTS)
    found = CaptureMemory(REQUEST, Store(tmp_path)).read()
    assert found is not None
    assert dict(found.graphs) == graphs
    assert list(found.graphs) == list(graphs)
    assert found.description == FACTS


@pytest.mark.parametrize("change", [
    {"model": "qwen3"}, {"phases": (Phase.PREFILL,)}, {"phases": ()}, {"batch": 2}, {"context": 7}, {"prompt": 5},
    {"dtype": DType.BFLOAT16}, {"overrides": (("num_hidden_layers", "3"),)}, {"overrides": ()},
], ids=str)
def test_another_request_is_captured_itself(tmp_path: Path, library: Path, change: dict[str, object]) -> None:
    store = Store(tmp_path)
    CaptureMemory(REQUEST, store).write({"decode": graph()}, FACTS)
    assert CaptureMemory(replace(REQUEST, **change), store).read() is None  # type: ignore[arg-type]
    assert CaptureMemory(replace(REQUEST, weights="random:3"), store).read() is not None, "weights are bound later"


def _other_text(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "modeling.py").write_text("LAYERS = 3", encoding="utf-8")


def _missing_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "modeling.py").unlink()


def _another_package(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "kernels-1.0.dist-info").mkdir()
    patch.syspath_prepend(str(folder))


def _a_setting(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("USE_HUB_KERNELS", "NO")


def _own_code(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(remembered, "text_digest", lambda *folders: "other")


@pytest.mark.parametrize("change", [_other_text, _missing_file, _another_package, _a_setting, _own_code])
def test_other_code_captures_anew(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch,
                                  change: Callable[[Path, pytest.MonkeyPatch], None]) -> None:
    store = Store(tmp_path)
    CaptureMemory(REQUEST, store).write({"decode": graph()}, FACTS)
    assert CaptureMemory(REQUEST, store).read() is not None
    change(library, monkeypatch)
    assert CaptureMemory(REQUEST, store).read() is None


def test_a_folder_is_known_by_its_configuration(tmp_path: Path, library: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"layers": 2}', encoding="utf-8")
    request, store = replace(REQUEST, model=str(folder)), Store(tmp_path / "store")
    CaptureMemory(request, store).write({"decode": graph()}, FACTS)
    (folder / "model.safetensors").write_bytes(b"weights do not matter")
    assert CaptureMemory(request, store).read() is not None
    (folder / "config.json").write_text('{"layers": 3}', encoding="utf-8")
    assert CaptureMemory(request, store).read() is None


def test_a_hub_id_that_is_not_here_is_not_kept(tmp_path: Path, library: Path) -> None:
    memory = CaptureMemory(replace(REQUEST, model="nobody/no-such-model"), Store(tmp_path))
    assert not memory.usable
    memory.write({"decode": graph()}, FACTS)
    assert memory.read() is None


def test_a_process_that_may_have_changed_the_libraries_keeps_nothing(
        tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    CaptureMemory(REQUEST, store).write({"decode": graph()}, FACTS)
    monkeypatch.setattr(remembered, "_nothing_loaded", lambda: False)
    memory = CaptureMemory(REQUEST, store)
    assert memory.read() is None
    memory.write({"decode": graph("mul")}, FACTS)
    monkeypatch.setattr(remembered, "_nothing_loaded", lambda: True)
    assert dict(CaptureMemory(REQUEST, store).read().graphs) == {"decode": graph()}  # type: ignore[union-attr]


@pytest.mark.parametrize("document", [[], {"files": {}}, {"files": {}, "graphs": {"decode": {}}, "description": {}}])
def test_a_capture_that_cannot_be_read_is_made_anew(tmp_path: Path, library: Path, document: object) -> None:
    store = Store(tmp_path)
    memory = CaptureMemory(REQUEST, store)
    store.put_document(memory.key, document)
    assert memory.read() is None


def request(**changes: object) -> CheckRequest:
    return replace(CheckRequest(graph(), graph("mul"), ("y",)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("result", [
    CheckResult(True, 1.2345678901234567e-16), CheckResult(False, math.inf, "'y' differs"),
    CheckResult(True, 0.0)], ids=str)
def test_a_proof_is_made_once(tmp_path: Path, result: CheckResult) -> None:
    asked: list[CheckRequest] = []

    def check(question: CheckRequest) -> CheckResult:
        asked.append(question)
        return result

    answers = [remembering(Store(tmp_path))(check)(request()) for _ in range(2)]
    assert answers == [result, result]
    assert len(asked) == 1
    assert remembering(Store(tmp_path, fresh=True))(check)(request()) == result
    assert len(asked) == 2


def test_a_proof_that_is_not_a_number_stays_a_refusal(tmp_path: Path) -> None:
    result = CheckResult(False, math.nan, "'y' differs")
    first, again = (remembering(Store(tmp_path))(lambda _: result)(request()) for _ in range(2))
    assert not again.agrees and math.isnan(again.relative_error) and again.detail == first.detail


def test_every_part_of_a_question_counts() -> None:
    questions = [
        request(), request(before=graph("sub")), request(after=graph("sub")), request(before=graph(extent=4)),
        request(after=graph("mul", swap=True)), request(indices="x", extent=8), request(indices="x", extent=9),
        request(indices="c", extent=8), request(mask_inputs=frozenset(("x",))), request(mask_inputs=frozenset(("c",))),
        request(before=graph(factor=2.0)), request(after=graph("mul", prefix="z"), compared=()),
    ]
    keys = [question_of(question) for question in questions]
    assert len(set(keys)) == len(keys)


def test_names_do_not_count() -> None:
    renamed = CheckRequest(graph(prefix="a"), graph("mul", prefix="a"), ("ay",), mask_inputs=frozenset(("ax",)))
    assert question_of(renamed) == question_of(request(mask_inputs=frozenset(("x",))))


def test_which_values_are_one_counts() -> None:
    """The same two programs on the same memory, and on two: different questions with equal digests."""
    apart = CheckRequest(graph(), graph("mul", prefix="z"), ())
    assert question_of(apart) != question_of(CheckRequest(graph(), graph("mul"), ()))
