"""Registers, spills, shared memory and occupancy, read out of code objects and IREE modules."""

from __future__ import annotations

import json
import re
import runpy
import struct
import subprocess
from pathlib import Path

import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.gpu import elf, tools
from hetcc.backends.gpu.kernels import production
from hetcc.backends.gpu.kernels.code_object import CodeObject
from hetcc.backends.gpu.kernels.compile import compile_launches
from hetcc.backends.gpu.kernels.toolchain import TARGETS
from hetcc.backends.gpu.occupancy import ARCHITECTURES, occupancy_of
from hetcc.backends.gpu.resources import KernelResources, manifest, resources_of, spilling
from hetcc.errors import ToolError
from hetcc.store import Store

from corpus import triton_kernels as kernels

pytest.importorskip("triton")
pytest.importorskip("iree.compiler")

MATMUL = """func.func @main(%0: tensor<64x128xf16>, %1: tensor<128x64xf16>) -> tensor<64x64xf32> {
  %2 = arith.constant 0.0 : f32
  %3 = tensor.empty() : tensor<64x64xf32>
  %4 = linalg.fill ins(%2 : f32) outs(%3 : tensor<64x64xf32>) -> tensor<64x64xf32>
  %5 = linalg.matmul ins(%0, %1 : tensor<64x128xf16>, tensor<128x64xf16>) outs(%4 : tensor<64x64xf32>)
      -> tensor<64x64xf32>
  return %5 : tensor<64x64xf32>
}
"""
FITS = kernels.product(32, 32, warps=2)
SPILLS = {"gfx90a": kernels.share(131072), "sm_80": kernels.share(65536)}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, CodeObject]]:
    """By target: a kernel that fits into registers, and one that does not."""
    folder = tmp_path_factory.mktemp("objects")
    found: dict[str, dict[str, CodeObject]] = {}
    with pytest.MonkeyPatch.context() as patch:
        kernels.write_package(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        for target in TARGETS:
            wanted = {"fits": FITS, **({"spills": SPILLS[target]} if target in SPILLS else {})}
            made = compile_launches(list(wanted.values()), target, package=kernels.PACKAGE,
                                    store=Store(folder / "store"))
            found[target] = {name: made[launch.code_digest] for name, launch in wanted.items()}  # type: ignore[misc]
    return found


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A module of IREE by target."""
    folder: Path = tmp_path_factory.mktemp("modules")
    (folder / "matmul.mlir").write_text(MATMUL, encoding="utf-8")
    for target in ("gfx90a", "gfx942", "sm_80"):
        outcome = tools.run_compiler(folder / "matmul.mlir", folder / target, tools.target_named(target))
        assert outcome.ok, outcome
    return {target: (folder / target).read_bytes() for target in ("gfx90a", "gfx942", "sm_80")}


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_that_fits(objects: dict[str, dict[str, CodeObject]], target: str) -> None:
    code = objects[target]["fits"]
    (kernel,) = resources_of(code.content, code.shared_bytes)
    assert (kernel.kernel, kernel.target, kernel.source) == ("product", target, code.kind)
    assert kernel.threads == code.threads and kernel.shared_bytes == code.shared_bytes > 0
    assert kernel.registers is not None and 8 < kernel.registers <= 255
    assert not kernel.spills and kernel.stack_bytes == 0
    assert kernel.occupancy is not None and kernel.occupancy.warps == 2 * kernel.occupancy.blocks > 0
    assert (kernel.scalar_registers > 0) == target.startswith("gfx")


@pytest.mark.parametrize("target", ["gfx90a", "sm_80"])
def test_a_kernel_that_spills(objects: dict[str, dict[str, CodeObject]], target: str) -> None:
    code = objects[target]["spills"]
    (kernel,) = resources_of(code.content, code.shared_bytes)
    assert kernel.spills and kernel.stack_bytes
    assert kernel.registers == 128
    assert (kernel.spilled_vector_registers > 0) == (target == "gfx90a")
    files: dict[str, bytes | CodeObject] = {f"gpu/{name}": made for name, made in objects[target].items()}
    assert [(name, found.kernel) for name, found in spilling(files)] == [("gpu/spills", "share")]


@pytest.mark.parametrize(("target", "name"), [("sm_80", "fits"), ("sm_80", "spills"), ("sm_90", "fits")])
def test_cubins_are_read_as_nvidias_tool_reads_them(
        objects: dict[str, dict[str, CodeObject]], target: str, name: str, tmp_path: Path) -> None:
    ptxas = tools.ptxas_path()
    assert ptxas is not None
    code = objects[target][name]
    (tmp_path / "a.cubin").write_bytes(code.content)
    said = subprocess.run([Path(ptxas).with_name("cuobjdump"), "-res-usage", "a.cubin"], cwd=tmp_path, text=True,
                          capture_output=True, check=True).stdout
    (kernel,) = resources_of(code.content)
    facts = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", said.partition(f"Function {code.symbol}")[2])}
    reserved = 1024 if target == "sm_90" else 0
    assert (kernel.registers, kernel.stack_bytes) == (facts["REG"], facts["STACK"])
    assert kernel.shared_bytes + reserved == facts["SHARED"]


@pytest.mark.parametrize("target", ["gfx90a", "gfx942"])
def test_modules_of_iree_for_amd(modules: dict[str, bytes], target: str) -> None:
    (kernel,) = resources_of(modules[target])
    assert kernel.target == target and "matmul" in kernel.kernel and kernel.source == "hsaco"
    assert kernel.registers and kernel.shared_bytes and kernel.threads and kernel.threads % 64 == 0
    assert kernel.occupancy is not None and kernel.occupancy.blocks >= 1


def test_modules_of_iree_for_nvidia_hold_ptx(modules: dict[str, bytes]) -> None:
    (unknown,) = resources_of(modules["sm_80"])
    assert (unknown.source, unknown.target, unknown.registers, unknown.occupancy) == ("ptx", "sm_80", None, None)
    (known,) = resources_of(modules["sm_80"], assemble_ptx=True)
    assert known.source == "ptx through ptxas" and known.kernel == unknown.kernel and known.threads == unknown.threads
    assert known.registers and known.occupancy is not None and not known.spills


def test_without_ptxas_ptx_stays_unknown(modules: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "ptxas_path", lambda: None)
    assert resources_of(modules["sm_80"], assemble_ptx=True) == resources_of(modules["sm_80"])


def test_manifest(objects: dict[str, dict[str, CodeObject]], modules: dict[str, bytes]) -> None:
    code = objects["gfx90a"]["fits"]
    files: dict[str, bytes | CodeObject] = {"gpu/b.hsaco": code, "gpu/a.vmfb": modules["gfx90a"],
                                            "gpu/plain.json": b"{}"}
    text = manifest(files)
    assert text == manifest(dict(reversed(files.items())))
    document = json.loads(text)
    assert list(document["files"]) == ["gpu/a.vmfb", "gpu/b.hsaco", "gpu/plain.json"]
    (kernel,) = document["files"]["gpu/b.hsaco"]
    assert kernel["shared_bytes"] == code.shared_bytes and kernel["spills"] is False
    assert kernel["occupancy"]["limited_by"] and document["files"]["gpu/plain.json"] == []
    assert set(kernel) == {*KernelResources.__dataclass_fields__, "spills"}


# ---- occupancy, against tables worked out by hand from the vendors' documents


@pytest.mark.parametrize(("target", "threads", "registers", "shared", "scalars", "blocks", "limited_by"), [
    ("gfx90a", 256, 64, 0, 20, 8, "warps"), ("gfx90a", 256, 65, 0, 20, 7, "registers"),
    ("gfx90a", 256, 128, 0, 20, 4, "registers"), ("gfx90a", 256, 129, 0, 20, 3, "registers"),
    ("gfx90a", 256, 256, 0, 20, 2, "registers"), ("gfx90a", 256, 512, 0, 20, 1, "registers"),
    ("gfx90a", 1024, 129, 0, 20, 0, "registers"), ("gfx90a", 64, 512, 0, 20, 4, "registers"),
    ("gfx90a", 64, 8, 0, 20, 32, "warps"), ("gfx90a", 128, 8, 0, 20, 16, "warps"),
    ("gfx90a", 256, 8, 65536, 20, 1, "shared memory"), ("gfx90a", 256, 8, 32768, 20, 2, "shared memory"),
    ("gfx90a", 256, 8, 32769, 20, 1, "shared memory"), ("gfx90a", 256, 8, 0, 102, 7, "scalar registers"),
    ("gfx942", 512, 64, 0, 100, 4, "warps"),
    ("sm_80", 128, 32, 0, 0, 16, "warps"), ("sm_80", 128, 33, 0, 0, 12, "registers"),
    ("sm_80", 128, 255, 0, 0, 2, "registers"), ("sm_80", 32, 16, 0, 0, 32, "blocks"),
    ("sm_80", 128, 32, 163 << 10, 0, 1, "shared memory"), ("sm_80", 128, 32, 81 << 10, 0, 2, "shared memory"),
    ("sm_90", 128, 32, 227 << 10, 0, 1, "shared memory"), ("sm_90", 128, 128, 49152, 0, 4, "registers"),
    ("sm_89", 1024, 32, 0, 0, 1, "warps"),
])
def test_occupancy(target: str, threads: int, registers: int, shared: int, scalars: int, blocks: int,
                   limited_by: str) -> None:
    found = occupancy_of(target, threads, registers, shared, scalars)
    chip = ARCHITECTURES[target]
    assert (found.blocks, found.limited_by) == (blocks, limited_by)
    assert found.warps == blocks * -(-threads // chip.threads_per_warp) <= found.most_warps


def test_more_registers_never_give_more_blocks() -> None:
    for target in ARCHITECTURES:
        for threads in (32, 64, 96, 256, 1024):
            blocks = [occupancy_of(target, threads, registers, 0).blocks for registers in range(1, 600)]
            assert blocks == sorted(blocks, reverse=True) and blocks[-1] == 0


# ---- reading


def test_msgpack() -> None:
    several = b"\x83\xa1a\x01\xa1b\x92\xc3\xc0\xa1c\xd9\x02xy"
    assert elf.unpack_msgpack(several) == {"a": 1, "b": [True, None], "c": "xy"}
    for raw, value in ((b"\x7f", 127), (b"\xe0", -32), (b"\xff", -1), (b"\xcc\xff", 255), (b"\xcd\x01\x00", 256),
                       (b"\xce\x00\x01\x00\x00", 65536), (b"\xcf" + bytes(7) + b"\x07", 7), (b"\xd0\x80", -128),
                       (b"\xd1\xff\x00", -256), (b"\xd2\xff\xff\xff\xff", -1), (b"\xd3" + b"\xff" * 8, -1),
                       (b"\xca\x3f\x80\x00\x00", 1.0), (b"\xcb\x3f\xf0" + bytes(6), 1.0), (b"\xc4\x01\x00", b"\x00"),
                       (b"\xdc\x00\x01\x05", [5]), (b"\xde\x00\x01\x05\x06", {5: 6}), (b"\x80", {}), (b"\xa0", "")):
        assert elf.unpack_msgpack(raw) == value, raw


@pytest.mark.parametrize("raw", [b"", b"\x81\xa1a", b"\xa5ab", b"\xcd\x01", b"\xc7\x01\x02\x03", b"\xa1\xff"])
def test_damaged_msgpack_is_an_error(raw: bytes) -> None:
    with pytest.raises(ToolError, match="the metadata of a code object cannot be read"):
        elf.unpack_msgpack(raw)


def test_damaged_code_objects_are_errors(objects: dict[str, dict[str, CodeObject]]) -> None:
    content = objects["gfx90a"]["fits"].content
    with pytest.raises(ToolError, match="is no ELF file"):
        elf.Elf(b"text")
    with pytest.raises(ToolError, match=f"cut off: 200 of {len(content)} bytes"):
        elf.Elf(content[:200])
    assert elf.Elf(content + b"more").size == len(content)
    assert resources_of(b"") == resources_of(b"\x7fELF\x02\x01" + bytes(5)) == ()


def test_several_images_in_one_file(objects: dict[str, dict[str, CodeObject]]) -> None:
    first, second = objects["gfx90a"]["fits"].content, objects["gfx942"]["fits"].content
    found = resources_of(b"head" + first + b"\x7fELF?" + second + objects["sm_90"]["fits"].content)
    assert [kernel.target for kernel in found] == ["gfx90a", "gfx942", "sm_90"]


def test_an_unknown_chip_has_no_occupancy(objects: dict[str, dict[str, CodeObject]]) -> None:
    content = bytearray(objects["gfx90a"]["fits"].content)
    struct.pack_into("<I", content, 48, 0x541)
    (kernel,) = resources_of(bytes(content))
    assert kernel.target == "amdgpu 0x41" and kernel.occupancy is None and kernel.registers


# ---- the gate


def test_production_operations_have_plans_for_every_gpu() -> None:
    names = [name for name, _ in production.production_operations()]
    assert len(names) == len(set(names)) > 20
    for target in TARGETS:
        modules = {launch.module for _, launch in production.production_launches(target).values()}
        assert {"attention", "pooling", "radix_select", "scoring", "threshold_select"} <= modules


def test_a_spill_is_reported_by_the_gate(
        objects: dict[str, dict[str, CodeObject]], capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "check_spills.py"))
    wanted = {"a": ("small", FITS), "b": ("large", SPILLS["gfx90a"])}
    made: dict[str, CodeObject | Rejected] = {"a": objects["gfx90a"]["fits"], "b": objects["gfx90a"]["spills"]}
    script["findings"].__globals__.update(production_launches=lambda target: wanted,
                                          compile_launches=lambda launches, target: made)
    assert script["main"](["gfx90a"]) == 1
    said = capsys.readouterr().out
    assert "gfx90a: 2 code objects, 1 of them spill" in said and "good.share of 'large': 5" in said
    wanted.pop("b")
    assert script["main"](["gfx90a"]) == 0
    wanted["c"] = ("odd", FITS)
    made["c"] = Rejected("Triton does not compile the kernel", "compiles", "no")
    assert script["main"](["gfx90a"]) == 1 and "of 'odd': Triton does not compile" in capsys.readouterr().out
