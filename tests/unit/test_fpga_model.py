"""Streaming kernels: lanes, ports, fill and drain, what stays on chip, and what it occupies."""

from __future__ import annotations

import pytest

from hetcc.backends.fpga.costs import cycles
from hetcc.backends.fpga.costs.unit_resources import float_dot, integer_dots, integer_to_float, quantiser, together
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.cost_model.device import load_device
from hetcc.cost_model.fpga import BRAM_BYTES, URAM_BYTES, estimate_stages, mac_rate, on_chip_budget
from hetcc.cost_model.price import FREE, Bound, price, reconfiguration
from hetcc.cost_model.quantity import Corner
from hetcc.cost_model.work import Work
from hetcc.errors import InternalError
from hetcc.ir import DType, OperatorClass

F32, F16, BF16, INT8, INT16 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.INT16
U55C = load_device("u55c")
CLOCK_HZ = 250e6


def scan(keys, width=128, heads=1, dtype=INT16, resident=(0, 0)):
    """An inner product of ``heads`` queries with every key."""
    return (Work(2 * heads * keys * width, keys * width * dtype.size_bytes, 0, keys, resident=resident),
            OperatorClass.MATMUL, dtype)


def test_one_head_is_limited_by_memory_and_many_heads_by_arithmetic():
    one, many = price([scan(131_072)], U55C), price([scan(131_072, heads=64)], U55C)
    assert (one.bound, many.bound) == (Bound.MEMORY, Bound.COMPUTE)
    assert many.parts.compute_s == pytest.approx(64 * 128 * 131_072 / (9024 * 0.7) / CLOCK_HZ)


def test_kernels_at_the_same_time_share_the_ports():
    alone, shared = price([scan(131_072)], U55C), price([scan(131_072)], U55C, concurrent_kernels=2)
    assert shared.parts.memory_s == pytest.approx(2 * alone.parts.memory_s)
    busy = price([scan(131_072, heads=64)], U55C)
    assert price([scan(131_072, heads=64)], U55C, concurrent_kernels=2).parts.compute_s == busy.parts.compute_s


def test_few_ports_limit_the_bandwidth():
    narrow = U55C.streaming.model_copy(update={
        "ports_per_kernel": U55C.streaming.ports_per_kernel.model_copy(update={"value": 8.0})})
    found = price([scan(131_072)], U55C.model_copy(update={"streaming": narrow}))
    assert found.parts.memory_s == pytest.approx(131_072 * 256 / (8 * 64 * CLOCK_HZ))


def test_a_selection_is_drained_and_every_further_stage_filled():
    top = (Work(0, 0, 8, 131_072, selected=2048), OperatorClass.TOPK, F32)
    one = price([top], U55C)
    assert one.parts.latency_s == pytest.approx(2 * 2048 / CLOCK_HZ)
    assert price([scan(4096), top], U55C).parts.latency_s == pytest.approx((2 * 2048 + 27) / CLOCK_HZ)
    assert one.parts.compute_s == pytest.approx(131_072 / 16 / CLOCK_HZ)


def test_an_index_on_chip_is_read_from_all_blocks_at_once():
    """Published: 16,384 keys in block RAM and twice as many in ultra RAM, the rest from HBM."""
    bram, uram = 16_384 * 256, 32_768 * 256
    found = {keep: price([scan(49_152, resident=(bram, uram))], U55C, keep) for keep in ("streaming", "as-published")}
    assert found["streaming"] == price([scan(49_152)], U55C, "streaming")
    assert found["as-published"].parts.memory_s == pytest.approx(URAM_BYTES / 8 / CLOCK_HZ)
    assert found["as-published"].parts.memory_s < found["streaming"].parts.memory_s
    assert found["as-published"].energy_j < found["streaming"].energy_j
    small = price([scan(64, resident=(64 * 256, 0))], U55C, "as-published")
    assert small.parts.memory_s <= price([scan(64)], U55C).parts.memory_s


def test_the_published_rates_out_of_block_and_ultra_ram():
    """8,192 bytes per cycle out of 4 MiB, 2,048 out of 8 MiB: a block gives 8 bytes per cycle."""
    assert (4 << 20) / BRAM_BYTES * U55C.streaming.bram_bytes_per_cycle.value == pytest.approx(8192, rel=0.15)
    assert (8 << 20) / URAM_BYTES * U55C.streaming.uram_bytes_per_cycle.value == pytest.approx(2048, rel=0.15)


def test_resources_are_charged_against_what_routing_leaves():
    bram, uram = on_chip_budget(U55C.streaming)
    assert bram == int(2016 * 0.7) * BRAM_BYTES and uram == int(960 * 0.7) * URAM_BYTES
    found = estimate_stages([scan(131_072, resident=(bram, uram))], U55C, U55C.baseline("as-published"))
    assert (found.bram36, found.uram) == (int(2016 * 0.7), int(960 * 0.7))
    assert found.stages[0].memory == "uram"
    assert (found.dsp, found.occupied) == pytest.approx((9024 * 0.7, 1.0))
    free = estimate_stages([scan(131_072, resident=(bram, uram))], U55C, U55C.baseline("streaming"))
    assert (free.bram36, free.uram, free.stages[0].memory) == (0, 0, "hbm")


def test_products_share_the_slices_and_the_others_have_lanes_of_their_own():
    sums = (Work(4096, 0, 0, 4096), OperatorClass.REDUCTION, F32)
    found = estimate_stages([scan(4096), scan(4096), sums], U55C, U55C.baseline())
    assert found.stages[0].lanes == pytest.approx(mac_rate(U55C.streaming, INT16, Corner.LIKELY) / CLOCK_HZ / 2)
    assert found.stages[2].lanes == 128 and found.stages[2].dsp == 0
    assert found.dsp == pytest.approx(9024 * 0.7) and found.fill_cycles == 2 * 27
    assert estimate_stages([], U55C, U55C.baseline()).stages == ()


def test_numbers_agree_with_the_composed_hardware():
    streaming = U55C.streaming
    assert int(streaming.dsp_count.value * streaming.dsp_usable_fraction.value) == cycles.DSP_BUDGET
    assert streaming.port_bytes_per_cycle.value == cycles.PORT_BYTES
    assert streaming.fill_cycles.value == cycles.product_latency(128, NumberFormat.FP32)


@pytest.mark.parametrize("name", ["u55c", "u280", "vu47p", "v80"])
@pytest.mark.parametrize(("dtype", "form"), [(F32, NumberFormat.FP32), (F16, NumberFormat.FP32),
                                             (BF16, NumberFormat.BF16), (INT16, NumberFormat.INT16)])
def test_a_multiply_add_takes_what_the_composed_one_takes(name, dtype, form):
    """Tables of float16 are widened to binary32."""
    streaming, vectors = load_device(name).streaming, 16
    dsp, lut = streaming.dsp_per_mac[dtype], streaming.lut_per_mac[dtype]
    assert dsp.value == cycles.DSP_OF[form]
    made = float_dot(128, form.float_bits) if form.float_bits else integer_row(form.integer_bits, vectors, vectors)
    each = 128 * (1 if form.float_bits else vectors)
    assert made.dsp / each == dsp.value
    assert made.lut / each == pytest.approx(lut.value, rel=0.05) and lut.low <= made.lut / each <= lut.high
    # The published kernels' 3 + 2 slices stay within the range.
    assert dsp.high == 5 if form is NumberFormat.FP32 else dsp.high < 5


@pytest.mark.parametrize("name", ["u55c", "u280", "vu47p", "v80"])
def test_int8_vectors_share_slices_in_pairs(name):
    streaming, vectors = load_device(name).streaming, 16
    made = integer_row(8, vectors, vectors // 2)
    dsp, lut = streaming.dsp_per_mac[INT8], streaming.lut_per_mac[INT8]
    assert made.dsp / vectors / 128 == dsp.value
    assert made.lut / vectors / 128 == pytest.approx(lut.value, rel=0.03)
    alone = integer_row(8, 1, 1)
    assert alone.dsp / 128 == dsp.high and lut.high == pytest.approx(alone.lut / 128, rel=0.15)


def integer_row(bits, vectors, slices):
    """A row of 128 integers with so many vectors: its conversion, ``slices`` rows of multipliers, sums to binary32."""
    width = cycles.accumulator_bits(128, bits)
    return together([quantiser(128, bits), integer_dots(128, bits, vectors // slices).times(slices),
                     integer_to_float(width).times(vectors)])


def test_int8_needs_half_a_slice():
    rates = [mac_rate(U55C.streaming, dtype, Corner.LIKELY) for dtype in (F32, INT16, INT8)]
    assert rates == pytest.approx([9024 * 0.7 / 2 * CLOCK_HZ, 9024 * 0.7 * CLOCK_HZ, 9024 * 0.7 * 2 * CLOCK_HZ])


def test_loading_other_kernels_takes_seconds_and_only_where_there_are_any():
    assert reconfiguration(U55C).low_s < reconfiguration(U55C).time_s == 2.0 < reconfiguration(U55C).high_s
    assert reconfiguration(load_device("mi210")) == FREE


def test_stages_need_a_streaming_device():
    with pytest.raises(InternalError, match="only a streaming device"):
        estimate_stages([scan(1)], load_device("mi210"), load_device("mi210").baseline())


def test_a_larger_card_is_faster():
    item = scan(131_072, heads=64)
    assert price([item], load_device("v80")).time_s < price([item], U55C).time_s
    assert price([item], load_device("vu47p")).time_s >= price([item], U55C).time_s
