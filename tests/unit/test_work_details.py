"""What work says beside how much it is: the shape of products, what is read, how long ago it was touched."""

from __future__ import annotations

import pytest

from hetcc.cost_model.reuse import mark_recent
from hetcc.cost_model.work import Product, Work, storage_of, work_of, works_of
from hetcc.ir import CacheUpdate, DType, Graph, Node, OperatorClass, Role, SourceOperator, TensorType, Value

F32, I64 = DType.FLOAT32, DType.INT64


def value(name, *shape, dtype=F32, role=Role.ACTIVATION):
    return Value(name, TensorType(shape, dtype), role)


def node(name, operator_class, inputs, outputs, **attributes):
    return Node(name, SourceOperator("test", name), operator_class, tuple(inputs), tuple(outputs),
                attributes=tuple(sorted(attributes.items())))


def graph(nodes, values, outputs, caches=(), updates=()):
    table = {item.name: item for item in values}
    inputs = tuple(item.name for item in values if item.role is Role.INPUT)
    return Graph("test", tuple(nodes), table, inputs, tuple(outputs), tuple(caches), tuple(updates))


@pytest.mark.parametrize(("left", "right", "role", "result", "expected"), [
    ((3, 5), (5, 7), Role.PARAMETER, (3, 7), Product(1, 3, 7, 5, True)),
    ((2, 3, 5), (5, 7), Role.PARAMETER, (2, 3, 7), Product(1, 6, 7, 5, True)),
    ((2, 3, 5), (2, 5, 7), Role.ACTIVATION, (2, 3, 7), Product(2, 3, 7, 5, False)),
    ((4, 2, 1, 5), (4, 2, 5, 7), Role.CACHE, (4, 2, 1, 7), Product(8, 1, 7, 5, False)),
    ((1, 5), (5,), Role.PARAMETER, (1,), Product(1, 1, 1, 5, True)),
])
def test_the_shape_of_a_product(left, right, role, result, expected):
    product = node("dot", OperatorClass.MATMUL, ["x", "y"], ["z"], lhs=0, rhs=1)
    values = [value("x", *left, role=Role.INPUT), value("y", *right, role=role), value("z", *result)]
    caches = ("y",) if role is Role.CACHE else ()
    made = node("make", OperatorClass.CREATE, [], ["y"])
    nodes = [made, product] if role is Role.ACTIVATION else [product]
    assert work_of(product, graph(nodes, values, ["z"], caches)).product == expected


def test_details_are_no_part_of_how_much_work_it_is():
    detailed = Work(1, 2, 3, 4, Product(1, 1, 1, 1), 5, ((2, "x"),), ((2, 0),), (1, 1))
    assert detailed == Work(1, 2, 3, 4)
    assert (detailed + Work()).product is None
    assert Product(1, 3, 7, 5).narrow == 3


@pytest.fixture
def chain():
    """x -> a (with a weight of 1,024 bytes) -> b -> c, which reads what a made again; all values have 256 bytes."""
    values = [value("x", 1, 64, role=Role.INPUT), value("w", 4, 64, role=Role.PARAMETER), value("a", 1, 64),
              value("b", 1, 64), value("c", 1, 64)]
    nodes = [node("one", OperatorClass.ELEMENTWISE, ["x", "w"], ["a"], function="add"),
             node("two", OperatorClass.ELEMENTWISE, ["a"], ["b"], function="neg"),
             node("three", OperatorClass.ELEMENTWISE, ["a", "b"], ["c"], function="add")]
    return graph(nodes, values, ["c"])


def marked(program):
    groups = [[one] for one in program.nodes]
    return mark_recent(program, groups, [works_of(group, program) for group in groups])


def test_distances_are_the_traffic_since_the_last_touch(chain):
    one, two, three = (items[0][0] for items in marked(chain))
    assert (one.bytes_moved, two.bytes_moved, three.bytes_moved) == (1024 + 512, 512, 768)
    assert two.recent == ((256, 0),), "a was made just before"
    assert three.recent == ((256, 0), (256, 0)), "a was read just before, b made"
    assert one.recent == ((1024, 512 + 768 + 512),), "the weight one step ago; x comes from outside"


def test_an_activation_that_waits_is_further_away():
    """b is read by two clusters in between; only then by the last."""
    values = [value(name, 1, 64, role=Role.INPUT if name == "x" else Role.ACTIVATION) for name in "xabcd"]
    nodes = [node("one", OperatorClass.ELEMENTWISE, ["x"], ["a"], function="neg"),
             node("two", OperatorClass.ELEMENTWISE, ["x"], ["b"], function="neg"),
             node("three", OperatorClass.ELEMENTWISE, ["b"], ["c"], function="neg"),
             node("four", OperatorClass.ELEMENTWISE, ["a", "c"], ["d"], function="add")]
    found = marked(graph(nodes, values, ["d"]))
    assert found[3][0][0].recent == ((256, 1024), (256, 0))
    assert found[1][0][0].recent == ((256, 0),), "x was read by the first cluster"


def test_new_rows_do_not_bring_a_cache_nearer():
    values = [value("keys", 1, 1000, 8, role=Role.CACHE), value("row", 1, 1, 8, role=Role.INPUT),
              value("at", 1, dtype=I64, role=Role.INPUT), value("all", 1, 1000, 8), value("view", 1000, 8),
              value("sum", 8)]
    nodes = [node("append", OperatorClass.CACHE_UPDATE, ["keys", "at", "row"], ["all"], data=0, indices=1, updates=2,
                  axis=1),
             node("look", OperatorClass.VIEW, ["all"], ["view"], kind="reshape"),
             node("scan", OperatorClass.REDUCTION, ["view"], ["sum"], function="sum", axes=(0,))]
    program = graph(nodes, values, ["sum"], ("keys",), (CacheUpdate("keys", "all"),))
    assert storage_of("view", program) == "keys"
    scan = marked(program)[2][0][0]
    total = sum(work.bytes_moved for items in marked(program) for work, _, _ in items)
    assert scan.reads == ((32_000, "keys"),)
    assert scan.recent == ((32_000, total - 32_000),)
