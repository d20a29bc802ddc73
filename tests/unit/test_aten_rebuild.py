"""A region of the aten domain, rebuilt, is the program it was captured from."""

from __future__ import annotations

import pytest

from hetcc.aten.rebuild import operator_of, rebuild, result_names_of, to_exported_program, torch_dtype_of, trace
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, Node, OperatorClass, SourceOperator
from hetcc.ir.subgraph import extract, interface_of
from tests.unit.aten_programs import arrays_for, capture, graph_of_calls

torch = pytest.importorskip("torch")


def program(x, position, cache, length):
    cache.index_copy_(2, position, x)
    length.add_(1)
    values, indices = torch.topk(x, 4)
    left, _ = x.split([100, 28], -1)
    scores = torch.matmul(x, cache.transpose(2, 3))
    return torch.nn.functional.layer_norm(x, (128,)), values, indices, scores.softmax(-1), left.to(torch.float16)


def examples():
    torch.manual_seed(0)
    return (torch.randn(1, 1, 2, 128), torch.tensor([3, 4]), torch.zeros(1, 1, 16, 128), torch.tensor(0))


def captured() -> Graph:
    return capture(program, examples(), caches=(2, 3))


def arguments_for(region: Graph) -> list:
    arrays = arrays_for(region, examples())
    return [torch.from_numpy(arrays[name]) for name in interface_of(region)]


def test_rebuilt_program_equals_the_original() -> None:
    region = captured()
    eager = examples()
    expected = [*program(*eager), eager[2], eager[3]]
    given = arguments_for(region)
    results = rebuild(region)(*given)
    assert result_names_of(region)[-2:] == tuple(update.value for update in region.updates)
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == reference.dtype
        assert torch.equal(result, reference)
    for before, after in zip(arguments_for(region), given, strict=True):
        assert torch.equal(before, after), "the rebuilt program is functional"


def test_a_part_of_it_takes_and_returns_what_the_cut_says() -> None:
    whole = captured()
    names = [node.name for node in whole.nodes if node.operator.name not in ("softmax", "_softmax")]
    region = extract(whole, names, "part")
    results = rebuild(region)(*arguments_for(region))
    assert len(results) == len(result_names_of(region))


def test_a_value_that_is_output_and_update_is_returned_once() -> None:
    region = capture(lambda x, cache: cache.add_(x) * 1, (torch.ones(2), torch.ones(2)), caches=(1,))
    value = region.updates[0].value
    both = Graph("both", region.nodes, region.values, region.inputs, (value,), region.caches, region.updates)
    assert result_names_of(both) == (value,)
    assert len(rebuild(both)(torch.ones(2), torch.ones(2))) == 1


def test_view_of_what_was_strided_outside_the_region() -> None:
    """The permute that made the view legal is not part of the region; the region is fed contiguous tensors."""
    whole = capture(lambda x: x.transpose(0, 1).transpose(0, 1).reshape(6) + 1, (torch.randn(2, 3),))
    region = extract(whole, [node.name for node in whole.nodes[1:]], "tail")
    assert rebuild(region)(torch.randn(3, 2))[0].shape == (6,)


def test_exported_and_traced_programs_keep_the_interface() -> None:
    region = captured()
    assert len(to_exported_program(region).graph_signature.user_inputs) == len(interface_of(region))
    placeholders = [node for node in trace(region).graph.nodes if node.op == "placeholder"]
    assert len(placeholders) == len(interface_of(region))


def test_replacements_take_the_place_of_operators() -> None:
    region, _ = graph_of_calls([("relu.default", (torch.randn(3),))])
    module = trace(region, {torch.ops.aten.relu.default: lambda x: torch.clamp_min(x, 0)})
    targets = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.clamp_min.default"]


@pytest.mark.parametrize("dtype", list(DType))
def test_every_element_type_has_a_torch_one(dtype: DType) -> None:
    assert str(torch_dtype_of(dtype)) == f"torch.{dtype.value}"


def test_unknown_operator_is_an_error_that_names_it() -> None:
    node = Node("n", SourceOperator("aten", "no_such_thing", "default"), OperatorClass.OPAQUE, (), ())
    with pytest.raises(UserError, match="no_such_thing"):
        operator_of(node)


def test_float_infinities_and_lists_survive() -> None:
    mask = torch.tensor([True, False])
    region, arrays = graph_of_calls([("masked_fill.Scalar", (torch.zeros(2), mask, float("-inf"))),
                                     ("constant_pad_nd.default", (torch.ones(2), [1, 0], 0.5))])
    filled, padded = rebuild(region)(*(torch.from_numpy(arrays[name]) for name in interface_of(region)))
    assert filled.tolist() == [float("-inf"), 0.0]
    assert padded.tolist() == [0.5, 1.0, 1.0]
