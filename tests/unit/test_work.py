"""Flops and bytes by operator class, by hand and against torch's own counter."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from hetcc.cost_model.work import Work, compute_type, is_indexed_read, total_work, work_of, works_of
from hetcc.ir import CacheUpdate, DType, Graph, Node, OperatorClass, Role, SourceOperator, TensorType, Value

F32, I64, BF16 = DType.FLOAT32, DType.INT64, DType.BFLOAT16


def value(name, *shape, dtype=F32, role=Role.ACTIVATION):
    return Value(name, TensorType(shape, dtype), role)


def node(name, operator_class, inputs, outputs, **attributes):
    return Node(name, SourceOperator("test", name), operator_class, tuple(inputs), tuple(outputs),
                attributes=tuple(sorted(attributes.items())))


def graph(nodes, values, outputs, caches=(), updates=()):
    table = {item.name: item for item in values}
    inputs = tuple(item.name for item in values if item.role is Role.INPUT)
    return Graph("test", tuple(nodes), table, inputs, tuple(outputs), tuple(caches), tuple(updates))


def single(operator_class, operands, results, **attributes):
    """The work of one node on inputs."""
    values = [value(f"i{index}", *shape, dtype=dtype, role=Role.INPUT) for index, (shape, dtype) in enumerate(operands)]
    outputs = [value(f"o{index}", *shape, dtype=dtype) for index, (shape, dtype) in enumerate(results)]
    made = node("n", operator_class, [item.name for item in values], [item.name for item in outputs], **attributes)
    return work_of(made, graph([made], [*values, *outputs], [item.name for item in outputs]))


def test_work_adds_up_and_zero_is_zero():
    assert Work(1, 2, 3, 4) + Work(10, 20, 30, 40) == Work(11, 22, 33, 44)
    assert Work().intensity == 0.0
    assert Work().is_nothing
    assert Work(flops=5).intensity == math.inf
    assert Work(8, 2, 2).intensity == 2.0


def test_matmul_counts_batch_and_reads_the_bias():
    work = single(OperatorClass.MATMUL, [((2, 3, 5), F32), ((2, 5, 7), F32), ((7,), F32)], [((2, 3, 7), F32)],
                  lhs=0, rhs=1, bias=2)
    assert work.flops == 2 * 2 * 3 * 5 * 7
    assert work.bytes_read == 4 * (30 + 70 + 7)
    assert work.bytes_written == 4 * 42


def test_attention_counts_both_products():
    work = single(OperatorClass.ATTENTION, [((1, 8, 1, 64), BF16), ((1, 8, 100, 64), BF16), ((1, 8, 100, 32), BF16)],
                  [((1, 8, 1, 32), BF16)], query=0, key=1, value=2)
    assert work.flops == 2 * 8 * 100 * (64 + 32)


def test_topk_compares_and_computes_nothing():
    work = single(OperatorClass.TOPK, [((1, 1000), F32)], [((1, 10), F32), ((1, 10), I64)], input=0, k=10)
    assert work == Work(0, 4000, 40 + 80, 1000)


def test_a_gather_reads_rows_and_indices_not_the_table():
    work = single(OperatorClass.GATHER, [((50000, 64), BF16), ((4,), I64)], [((4, 64), BF16)],
                  data=0, indices=1, axis=0, mode="rows")
    assert work == Work(0, 4 * 64 * 2 + 4 * 8, 4 * 64 * 2, 256)


def test_a_scatter_copies_and_create_only_writes():
    work = single(OperatorClass.SCATTER, [((8, 100), F32), ((8, 2), I64)], [((8, 100), F32)], data=0, indices=1)
    assert (work.bytes_read, work.bytes_written) == (3200 + 128, 3200)
    assert single(OperatorClass.CREATE, [], [((10,), F32)], function="full") == Work(0, 0, 40, 10)
    assert single(OperatorClass.ELEMENTWISE, [((10,), F32)], [((10,), F32)], function="fill").bytes_read == 0


@pytest.mark.parametrize(("operator_class", "attributes", "flops"), [
    (OperatorClass.ELEMENTWISE, {"function": "add"}, 24),
    (OperatorClass.ELEMENTWISE, {"function": "cast"}, 0),
    (OperatorClass.ELEMENTWISE, {"function": "silu"}, 5 * 24),
    (OperatorClass.SOFTMAX, {"axis": 1}, 5 * 24),
    (OperatorClass.NORMALIZATION, {"axes": (1,)}, 5 * 24),
    (OperatorClass.CUMULATIVE, {"axis": 1}, 24),
    (OperatorClass.COPY, {}, 0),
    (OperatorClass.OPAQUE, {}, 0),
])
def test_one_pass_over_a_tensor(operator_class, attributes, flops):
    assert single(operator_class, [((4, 6), F32)], [((4, 6), F32)], **attributes) == Work(flops, 96, 96, 24)


def test_a_reduction_counts_its_input():
    assert single(OperatorClass.REDUCTION, [((4, 6), F32)], [((4,), F32)], function="sum", axes=(1,)).flops == 24


def test_views_are_free_and_broadcasts_are_read_unexpanded():
    """Grouped-query attention: keys of 2 heads expanded to 8 and reshaped; the product reads 2 heads."""
    values = [value("keys", 2, 1, 100, 64, role=Role.INPUT), value("query", 8, 1, 64, role=Role.INPUT),
              value("wide", 2, 4, 100, 64), value("flat", 8, 64, 100), value("scores", 8, 1, 100)]
    nodes = [node("expand", OperatorClass.VIEW, ["keys"], ["wide"], kind="expand"),
             node("reshape", OperatorClass.VIEW, ["wide"], ["flat"], kind="reshape"),
             node("dot", OperatorClass.MATMUL, ["query", "flat"], ["scores"], lhs=0, rhs=1)]
    program = graph(nodes, values, ["scores"])
    assert work_of(nodes[0], program) == Work()
    work = work_of(nodes[2], program)
    assert work.flops == 2 * 8 * 64 * 100
    assert work.bytes_read == 4 * (2 * 100 * 64 + 8 * 64)


def test_a_slice_is_read_at_its_own_size():
    values = [value("x", 100, 8, role=Role.INPUT), value("part", 10, 8), value("y", 10, 8)]
    nodes = [node("slice", OperatorClass.VIEW, ["x"], ["part"], kind="slice"),
             node("neg", OperatorClass.ELEMENTWISE, ["part"], ["y"], function="neg")]
    assert work_of(nodes[1], graph(nodes, values, ["y"])).bytes_read == 320


def test_an_operand_used_twice_is_read_once():
    values = [value("x", 10, role=Role.INPUT), value("y", 10)]
    square = node("square", OperatorClass.ELEMENTWISE, ["x", "x"], ["y"], function="mul")
    assert work_of(square, graph([square], values, ["y"])).bytes_read == 40


def experts(tokens, chosen, table=16):
    """Experts in batched form: gather the matrices of the chosen experts, transpose, multiply."""
    rows = tokens * chosen
    values = [value("weights", table, 32, 8, role=Role.PARAMETER), value("which", rows, dtype=I64, role=Role.INPUT),
              value("x", rows, 1, 8, role=Role.INPUT), value("picked", rows, 32, 8), value("turned", rows, 8, 32),
              value("y", rows, 1, 32)]
    nodes = [node("pick", OperatorClass.GATHER, ["weights", "which"], ["picked"], data=0, indices=1, axis=0,
                  mode="rows"),
             node("turn", OperatorClass.VIEW, ["picked"], ["turned"], kind="permute"),
             node("dot", OperatorClass.MATMUL, ["x", "turned"], ["y"], lhs=0, rhs=1)]
    return nodes, graph(nodes, values, ["y"])


@pytest.mark.parametrize(("tokens", "matrices_read"), [(1, 2), (4, 8), (100, 16)])
def test_each_distinct_expert_is_read_at_most_once(tokens, matrices_read):
    nodes, program = experts(tokens, chosen=2)
    assert is_indexed_read(nodes[0], program)
    assert work_of(nodes[0], program) == Work()
    rows = tokens * 2
    work = work_of(nodes[2], program)
    assert work.bytes_read == 4 * 32 * 8 * matrices_read + 8 * rows + 4 * rows * 8
    assert work.flops == 2 * rows * 32 * 8
    assert total_work(program) == work


def test_a_gather_that_others_read_too_is_not_an_indexed_read():
    nodes, program = experts(1, 2)
    more = node("copy", OperatorClass.COPY, ["picked"], ["kept"])
    values = [*program.values.values(), value("kept", 2, 32, 8)]
    both = graph([*nodes, more], values, ["y", "kept"])
    assert not is_indexed_read(nodes[0], both)
    assert work_of(nodes[0], both).bytes_written == 4 * 2 * 32 * 8


def test_a_cache_update_moves_only_the_new_rows():
    values = [value("cache", 1, 8, 4096, 64, dtype=BF16, role=Role.CACHE), value("at", 1, dtype=I64, role=Role.INPUT),
              value("new", 1, 8, 1, 64, dtype=BF16, role=Role.INPUT), value("updated", 1, 8, 4096, 64, dtype=BF16),
              value("total", 1, 8, 4096, dtype=BF16)]
    nodes = [node("put", OperatorClass.CACHE_UPDATE, ["cache", "at", "new"], ["updated"], data=0, indices=1, updates=2,
                  axis=2),
             node("sum", OperatorClass.REDUCTION, ["updated"], ["total"], function="sum", axes=(3,))]
    program = graph(nodes, values, ["total"], ["cache"], [CacheUpdate("cache", "updated")])
    assert work_of(nodes[0], program) == Work(0, 8 * 64 * 2 + 8, 8 * 64 * 2, 512)
    # Run as one program, the reduction still has to read the whole cache from memory.
    assert works_of(nodes, program)[1][0].bytes_read == 8 * 4096 * 64 * 2


def test_what_passes_inside_one_program_stays_out_of_memory():
    values = [value("x", 10, role=Role.INPUT), value("a", 10), value("b", 10), value("v", 5, 2), value("c", 5, 2)]
    nodes = [node("one", OperatorClass.ELEMENTWISE, ["x"], ["a"], function="exp"),
             node("two", OperatorClass.ELEMENTWISE, ["a"], ["b"], function="neg"),
             node("view", OperatorClass.VIEW, ["b"], ["v"], kind="reshape"),
             node("three", OperatorClass.ELEMENTWISE, ["v"], ["c"], function="neg")]
    program = graph(nodes, values, ["c"])
    whole = works_of(nodes, program)
    assert [work.bytes_moved for work, _, _ in whole] == [40, 0, 40]
    # ``b`` leaves through its view when the last node is elsewhere.
    part = works_of(nodes[:3], program)
    assert [(work.bytes_read, work.bytes_written) for work, _, _ in part] == [(40, 0), (0, 40)]
    assert sum((work for work, _, _ in whole), Work()).flops == total_work(program).flops


def test_the_compute_type_is_that_of_the_arithmetic():
    nodes, program = experts(1, 2)
    assert compute_type(nodes[2], program) is F32
    assert compute_type(nodes[0], program) is F32


def torch_programs():
    import torch

    def attention(query, key, data):
        return torch.softmax(query @ key.transpose(-1, -2), -1) @ data

    def layer(x, weight, bias):
        return torch.nn.functional.linear(torch.relu(x), weight, bias).sum(-1)

    def batched(left, right):
        return torch.einsum("bhik,bhjk->bhij", left, right).mean(-1)

    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        heads, rows, width, deep = (int(number) for number in torch.randint(1, 9, (4,), generator=random))
        yield attention, (torch.randn(heads, rows, width), torch.randn(heads, deep, width), torch.randn(heads, deep, 5))
        yield layer, (torch.randn(rows, width), torch.randn(deep, width), torch.randn(deep))
        yield batched, (torch.randn(2, heads, rows, width), torch.randn(2, heads, deep, width))


def test_matrix_flops_agree_with_the_counter_of_torch():
    from torch.utils.flop_counter import FlopCounterMode

    description = importlib.util.spec_from_file_location("aten_programs", Path(__file__).parent / "aten_programs.py")
    programs = importlib.util.module_from_spec(description)
    description.loader.exec_module(programs)
    for function, examples in torch_programs():
        with FlopCounterMode(display=False) as counter:
            function(*examples)
        program = programs.capture(function, examples)
        counted = sum(work_of(item, program).flops for item in program.nodes
                      if item.operator_class in (OperatorClass.MATMUL, OperatorClass.ATTENTION))
        assert counted == counter.get_total_flops() > 0
