"""Bad input, what is said about it, and that nothing half-made is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetcc.backends.gpu import tools
from hetcc.errors import ERROR_KINDS, ToolError

from corpus.command_line import TINY_LLAMA, CommandResult, hetcc, settings

pytestmark = pytest.mark.usefixtures("captured_once")
SMALL = ("llama", *settings(TINY_LLAMA), "--context", "16")


@dataclass(frozen=True)
class Place:
    """Where a case happens."""

    folder: Path
    """Empty but for what the case puts there."""
    plan: Path
    """A copy of a good planning-only bundle, outside ``folder``."""


@dataclass(frozen=True)
class Case:
    """One bad input."""

    name: str
    code: str
    arguments: Callable[[Place], tuple[object, ...]]
    said: tuple[str, ...]
    """Key parts of the message; ``{folder}`` and ``{plan}`` stand for the places."""


def command(*words: object) -> Callable[[Place], tuple[object, ...]]:
    """Arguments that need nothing to be prepared; ``{folder}`` and ``{plan}`` are filled in."""
    return lambda place: tuple(str(word).format(folder=place.folder, plan=place.plan) for word in words)


def compiling(*words: object) -> Callable[[Place], tuple[object, ...]]:
    """A compile into ``{folder}/out``."""
    return command("compile", *words, "-o", "{folder}/out")


def with_file(name: str, content: str, arguments: Callable[[Place], tuple[object, ...]]
              ) -> Callable[[Place], tuple[object, ...]]:
    """A case that needs a file in the folder."""
    def prepare(place: Place) -> tuple[object, ...]:
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return arguments(place)

    return prepare


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Place], tuple[object, ...]]:
    """``explain`` of a bundle one file of which was changed."""
    def prepare(place: Place) -> tuple[object, ...]:
        path = place.plan / name
        path.write_bytes(change(path.read_bytes()))
        return "explain", place.plan

    return prepare


def read_only(place: Place) -> tuple[object, ...]:
    """A compile below something that is no folder, which not even root can write into."""
    (place.folder / "file").write_text("", encoding="utf-8")
    return "compile", *SMALL, "-o", place.folder / "file" / "out"


def exported(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], tuple[object, ...]]:
    """A compile with a placement that was exported and then changed."""
    def prepare(place: Place) -> tuple[object, ...]:
        file = place.folder / "placement.json"
        assert hetcc("export", place.plan, "-o", file).code == 0
        document = json.loads(file.read_text(encoding="utf-8"))
        change(document)
        file.write_text(json.dumps(document), encoding="utf-8")
        return "compile", *SMALL, "--placement", file, "-o", place.folder / "out"

    return prepare


def make_cycle(document: dict[str, Any]) -> None:
    """Ask for two regions, each of which needs a result of the other."""
    first, second, third = _chain(document)
    document["regions"] = [[first, third], [second]]


def _chain(document: dict[str, Any]) -> tuple[str, str, str]:
    """Three clusters of one layer, each of which reads what the one before makes."""
    layer_of = {cluster["name"]: cluster["layer"] for cluster in document["clusters"]}
    edges = {(tensor["producer"], consumer) for tensor in document["tensors"] for consumer in tensor["consumers"]}
    return next((first, second, third) for first, second in sorted(edges) for begin, third in sorted(edges)
                if begin == second and layer_of[first] == layer_of[second] == layer_of[third] != "")


CONFIG = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1,
                     "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2,
                     "vocab_size": 64})
QUANTISED = json.dumps({**json.loads(CONFIG), "quantization_config": {"quant_method": "gptq", "bits": 4}})
BRANCH = ("import torch\nclass Branch(torch.nn.Module):\n    def forward(self, x):\n"
          "        return x + 1 if x.sum() > 0 else x - 1\n"
          "def make():\n    return Branch(), {'x': torch.zeros(3)}\n")
CASES = (
    Case("unknown model", "HET-C001", compiling("lama"), ("'lama' is neither a model type", "did you mean", "llama")),
    Case("no such file", "HET-C001", compiling("{folder}/net.onnx"), ("there is no file '{folder}/net.onnx'",)),
    Case("folder without a configuration", "HET-C001", with_file("m/readme", "", compiling("{folder}/m")),
         ("holds no config.json", "save_pretrained")),
    Case("file without the factory", "HET-C001", with_file("m.py", "x = 1\n", compiling("{folder}/m.py:make")),
         ("make", "m.py")),
    Case("unknown setting", "HET-C002", compiling("llama", "--set", "hiden_size=3"),
         ("no setting 'hiden_size'", "at:   --set hiden_size=3", "did you mean hidden_size")),
    Case("setting of another type", "HET-C002", compiling("llama", "--set", "hidden_size=wide"),
         ("'hidden_size' is int (4096) but was set to 'wide'", "give a int")),
    Case("settings that contradict", "HET-C002", compiling("llama", "--set", "num_attention_heads=7"),
         ("num_attention_heads=7",)),
    Case("no context", "HET-C003", compiling("llama", "--context", 0), ("--context is 0; it must be at least 1",)),
    Case("prompt beyond the context", "HET-C003", compiling("llama", "--context", 8, "--prompt", 9),
         ("--prompt is 9, more than the 8 entries of the cache", "raise --context or lower --prompt")),
    Case("control flow that depends on data", "HET-C004", with_file("b.py", BRANCH, compiling("{folder}/b.py:make")),
         ("b.py",)),
    Case("random weights without a seed", "HET-C005", compiling(*SMALL, "--weights", "random:"),
         ("'random:' has no seed", "--weights random:0")),
    Case("folder without weights", "HET-C005", with_file("w/readme", "", compiling(*SMALL, "--weights", "{folder}/w")),
         ("no .safetensors file in '{folder}/w'", "save_pretrained")),
    Case("no checkpoint of its own", "HET-C005", compiling(*SMALL, "--weights", "checkpoint"), ("--weights DIR",)),
    Case("quantised checkpoint", "HET-C006", with_file("q/config.json", QUANTISED, compiling(
        "{folder}/q", "--context", 16, "--weights", "checkpoint")), ("gptq",)),
    Case("phase of another kind of model", "HET-C007", compiling("llama", "--phase", "encode"),
         ("LlamaForCausalLM has no phase 'encode'", "use --phase prefill or decode")),
    Case("configuration that is no JSON", "HET-C008", with_file("c/config.json", "{", compiling("{folder}/c")),
         ("config.json cannot be used",)),
    Case("configuration of no known model", "HET-C008", with_file(
        "c/config.json", '{"model_type": "abacus"}', compiling("{folder}/c")),
         ("config.json cannot be used", "abacus")),
    Case("not an exported program", "HET-C008", with_file("net.pt2", "no", compiling("{folder}/net.pt2")),
         ("net.pt2", "is not an exported program")),
    Case("unknown device profile", "HET-M001", compiling(*SMALL, "--gpu", "mi211"),
         ("no device is called 'mi211'; known: ", "mi210", "u55c")),
    Case("device of another kind", "HET-M001", compiling(*SMALL, "--fpga", "mi210"), ("'mi210' is a gpu, not a fpga",)),
    Case("unknown baseline", "HET-M001", compiling(*SMALL, "--baseline", "fast"),
         ("has no baseline 'fast'; it has as-published, tuned",)),
    Case("unknown device of --place", "HET-M001", compiling(*SMALL, "--place", "apply=tpu"),
         ("'tpu' is not a device of this plan", "at:   --place apply=tpu", "gpu")),
    Case("profile that is not one", "HET-M002", with_file("card.toml", "name = 3", command(
        "devices", "{folder}/card.toml")), ("card.toml", "schema.json")),
    Case("unknown name in a placement", "HET-P001", exported(lambda document: document["placement"].update(x="gpu")),
         ("'x' is neither a cluster nor a node", "hetcc explain")),
    Case("unknown device in a placement", "HET-P001",
         exported(lambda document: document["placement"].update({"lm_head/mm": "tpu"})),
         ("device 'tpu' is not one of ['gpu', 'fpga', 'host']", "at:   placement['lm_head/mm']")),
    Case("placement that is no JSON", "HET-P001", with_file("p.json", "{{", compiling(
        *SMALL, "--placement", "{folder}/p.json")), ("cannot be read as JSON", "hetcc export BUNDLE --format json")),
    Case("cyclic placement", "HET-P002", exported(make_cycle), ("regions need each other's results", "split one")),
    Case("unknown partitioner", "HET-P004", compiling(*SMALL, "--partitioner", "best"),
         ("no partitioner is called 'best'; known: optimal, mincut", "path.py:Class")),
    Case("partitioner file without the class", "HET-P004", with_file("p.py", "", compiling(
        *SMALL, "--partitioner", "{folder}/p.py:Mine")), ("has no attribute 'Mine'",)),
    Case("device that refuses", "HET-P005", compiling(*SMALL, "--place", "lm_head/mm=fpga"),
         ("nothing that matches 'lm_head/mm' can run on fpga", "hetcc explain")),
    Case("output that cannot be written", "HET-B001", read_only, ("file", "--output")),
    Case("output that is no bundle", "HET-B001", with_file("out/notes", "mine", compiling(*SMALL)),
         ("exists and is no bundle",)),
    Case("output that exists", "HET-B001", lambda place: ("compile", *SMALL, "-o", place.plan),
         ("already holds a bundle", "--force")),
    Case("export into nowhere", "HET-B001", command("export", "{plan}", "-o", "{folder}/no/p.json"),
         ("cannot write '{folder}/no/p.json'",)),
    Case("not a bundle", "HET-B002", command("explain", "{folder}"), ("holds no manifest.json", "hetcc compile")),
    Case("bundle with a changed byte", "HET-B003", damaged("graphs/decode.json", lambda data: data[:-2] + b" \n"),
         ("'graphs/decode.json' was changed after it was written", "compile the model again")),
    Case("truncated plan", "HET-B003", damaged("plan.json", lambda data: data[:100]), ("'plan.json' was changed",)),
    Case("truncated manifest", "HET-B003", damaged("manifest.json", lambda data: data[:100]), ("cannot be read",)),
    Case("unknown node", "HET-B004", command("explain", "{plan}", "lm_haed/mm"),
         ("no node, cluster or region of decode is called 'lm_haed/mm'", "did you mean lm_head/mm")),
    Case("ambiguous piece of a name", "HET-B004", command("explain", "{plan}", "proj"), ("is in the names of",)),
    Case("unknown phase", "HET-B005", command("explain", "{plan}", "--phase", "prefill"),
         ("the bundle has no phase 'prefill'", "it has decode; compile with --phase prefill")),
    Case("run of a plan without code", "HET-B005", command("run", "{plan}"),
         ("a plan but no code", "--weights random:SEED")),
    Case("generation from a plan without code", "HET-B005", command("generate", "{plan}", "--tokens", 1, "--ids", 1),
         ("a plan but no code",)),
    Case("unknown GPU target", "HET-G001", compiling(*SMALL, "--weights", "random:0", "--target", "gfx1"),
         ("no GPU target is called 'gfx1'", "gfx90a")),
    Case("prompt that is no list of numbers", "HET-R002", command("generate", "{plan}", "--tokens", 1, "--ids", "a"),
         ("the prompt cannot be read", "write token ids as 1,2,3")),
    Case("no prompt", "HET-U001", command("generate", "{plan}", "--tokens", 1), ("the prompt is missing",)),
    Case("history without verification", "HET-U001", command("run", "{plan}", "--history", 1), ("--verify",)),
    Case("no pair", "HET-U001", compiling("llama", "--set", "hidden_size"), ("not of the form KEY=VALUE",)),
    Case("no device", "HET-U001", compiling("llama", "--place", "apply="), ("not of the form PATTERN=DEVICE",)),
    Case("unknown command", "HET-U001", command("compute"), ("No such command 'compute'", "try:  hetcc --help")),
    Case("unknown option", "HET-U001", command("explain", "{plan}", "--why"), ("--why", "hetcc explain --help")),
    Case("unknown choice", "HET-U001", compiling("llama", "--dtype", "float31"), ("'float31'", "bfloat16")),
    Case("missing model", "HET-U001", command("compile"), ("Missing argument 'MODEL'",)),
    Case("weights of the objective", "HET-P001", compiling(*SMALL, "--time-weight", 0), ("not all zero",)),
    Case("export without a bundle", "HET-U001", command("export"), ("needs a bundle",)),
)


@pytest.fixture(scope="module")
def small_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planning-only bundle of the model most cases use."""
    folder = tmp_path_factory.mktemp("small") / "plan"
    done = hetcc("compile", *SMALL, "-o", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def place(tmp_path: Path, small_plan: Path) -> Place:
    """A fresh folder and a fresh copy of the bundle."""
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copytree(small_plan, tmp_path / "bundles" / "plan")
    return Place(folder, tmp_path / "bundles" / "plan")


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too; modules that Python compiled are not ours."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in folder.rglob("*") if "__pycache__" not in path.parts}


def check(done: CommandResult, code: str, said: tuple[str, ...], place: Place) -> None:
    """The message has code, title and its key parts; the exit code is the kind's; stdout has nothing."""
    kind = ERROR_KINDS[code]
    assert done.err.rstrip().splitlines(), done
    assert f"{code}  {kind.title}: " in done.err, done.err
    for part in said:
        assert part.format(folder=place.folder, plan=place.plan) in done.err, done.err
    assert (done.code, done.out) == (int(kind.exit_code), "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_input(case: Case, place: Place) -> None:
    arguments = case.arguments(place)
    before = files_below(place.folder.parent)
    check(hetcc(*arguments), case.code, case.said, place)
    assert files_below(place.folder.parent) == before


def test_json_has_the_error_and_nothing_else_on_stdout(place: Place) -> None:
    done = hetcc("compile", "lama", "-o", place.folder / "out", "--json")
    error = done.document["error"]
    assert error["code"] == "HET-C001" and error["fix"] in done.err and done.document.keys() == {"error"}


def test_a_missing_tool(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ToolError("HET-T001", "iree-compile is not installed", fix="pip install 'hetcc[gpu]'")

    monkeypatch.setattr(tools, "require_tools", absent)
    before = files_below(place.folder.parent)
    done = hetcc("compile", *SMALL, "--weights", "random:0", "-o", place.folder / "out")
    check(done, "HET-T001", ("pip install 'hetcc[gpu]'",), place)
    assert files_below(place.folder.parent) == before
