"""``hetcc run`` and ``hetcc generate`` on a bundle with code, and how mismatches end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc import api
from hetcc.runtime.sample import random_inputs, rows_indexed_by
from hetcc.runtime.trace import Coverage
from hetcc.runtime.verify import SelectionComparison, Verification

from corpus.command_line import CommandResult, hetcc

GOOD = Verification("decode", 3, 1e-6, 1e-4, SelectionComparison(4, 4, 0, 0), Coverage({"gpu": 1.0}, {"gpu": 1.0}, ()),
                    {"gpu": "iree llvm-cpu (emulated gpu)"}, 0.5)


def test_a_plain_run_says_what_came_out_and_where_it_ran(code_bundle: Path) -> None:
    done = hetcc("run", code_bundle)
    assert done.code == 0, done.err
    assert "logits" in done.out and "float32[1, 1, 64]" in done.out
    assert "iree llvm-cpu (emulated gpu)" in done.out and "gpu 100 %" in done.out
    document = hetcc("run", code_bundle, "--phase", "decode", "--steps", 2, "--json").document
    assert document["phases"].keys() == {"decode"} and document["verified"] is False
    assert document["phases"]["decode"]["steps"] == 2
    assert document["phases"]["decode"]["coverage"]["flops"] == {"gpu": pytest.approx(1.0)}


def test_a_verified_run_covers_every_phase(code_bundle: Path) -> None:
    done = hetcc("run", code_bundle, "--verify", "--history", 3, "--steps", 2, "--seed", 5, "--json")
    assert done.code == 0, done.err
    assert done.document["verified"] is True and done.document["phases"].keys() == {"decode"}
    decode = done.document["phases"]["decode"]
    assert decode["steps"] == 2 and 0 < decode["relative_error"] <= decode["tolerance"]
    assert decode["coverage"]["bytes"]["gpu"] > 0.9 and decode["engines"]["gpu"] == "iree llvm-cpu (emulated gpu)"


def test_generation_is_compared_with_hugging_face(code_bundle: Path, tmp_path: Path) -> None:
    done = hetcc("generate", code_bundle, "--tokens", 4, "--ids", "1, 2,3", "--check", "--json")
    assert done.code == 0, done.err
    assert done.document["equal"] is True and len(done.document["generated"]) == 4
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("1 2\n3", encoding="utf-8")
    again = hetcc("generate", code_bundle, "--tokens", 4, "--ids-file", prompt)
    assert again.out == ",".join(map(str, done.document["generated"])) + "\n"


def test_inputs_are_valid_and_repeat(code_bundle: Path) -> None:
    bundle = api.load(code_bundle)
    plan, graph = bundle.plan.phase("decode"), bundle.tagged("decode").graph
    assert rows_indexed_by(graph, "input_ids") == 64
    first, second = random_inputs(plan, graph, 1)["input_ids"], random_inputs(plan, graph, 1)["input_ids"]
    assert first.shape == (1, 1) and first.dtype == numpy.int64 and (first == second).all()
    assert {int(token) for seed in range(40) for token in random_inputs(plan, graph, seed)["input_ids"].ravel()} <= \
        set(range(64))


def verified_with(monkeypatch: pytest.MonkeyPatch, bundle: Path, outcome: Verification, *words: str) -> CommandResult:
    """A verified run whose outcome is given."""
    monkeypatch.setattr(api.Bundle, "verify", lambda *_, **__: outcome)
    return hetcc("run", bundle, "--phase", "decode", "--verify", *words)


@pytest.mark.parametrize(("change", "code", "text"), [
    ({"relative_error": 0.5}, "HET-R001", "differs by 5.00e-01 relative, limit 1e-04"),
    ({"relative_error": float("nan")}, "HET-R001", "differs by nan"),
    ({"selections": SelectionComparison(4, 3, 0, 2)}, "HET-R001", "selected 2 entries"),
    ({"missing_outputs": ("logits",)}, "HET-R001", "1 outputs are missing"),
    ({"coverage": Coverage({"host": 1.0}, {"host": 1.0}, ("0.0% of flops ran on the emulated accelerators",))},
     "HET-R003", "0.0% of flops"),
])
def test_a_mismatch_ends_with_6(change: dict[str, Any], code: str, text: str, code_bundle: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    done = verified_with(monkeypatch, code_bundle, replace(GOOD, **change))
    assert done.code == 6 and code in done.err and text in done.err
    assert "FAILED" in done.out
    as_json = verified_with(monkeypatch, code_bundle, replace(GOOD, **change), "--json")
    assert as_json.code == 6 and as_json.document["error"]["code"] == code
    assert as_json.document["verified"] is False


def test_a_good_outcome_is_a_table(code_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = verified_with(monkeypatch, code_bundle, GOOD)
    assert done.code == 0 and "passed" in done.out and "gpu is  iree llvm-cpu (emulated gpu)" in done.out


def test_tokens_that_differ_end_with_6(code_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def generate(self, ids: object, tokens: int) -> list[int]:
            return [*range(tokens - 1), 1000]

    monkeypatch.setattr(api.Bundle, "generate", lambda *_: list(range(4)))
    monkeypatch.setattr(api.Bundle, "reference", Other())
    done = hetcc("generate", code_bundle, "--tokens", 4, "--ids", "1", "--check", "--json")
    assert done.code == 6 and done.document["equal"] is False
    assert done.document["error"]["what"] == "token 4 of 4 is 3, Hugging Face generates 1000"
