"""docs/errors.md and hetcc/errors.py say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hetcc.errors import ERROR_KINDS, ExitCode, HetccError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^### (HET-[A-Z]\d{3}) (.+)\n\nExit code: (\w+)\. (?P<meaning>(?:.+\n)+)\nWhat to do: (?P<fix>.+)",
                   re.MULTILINE)

def test_the_page_has_an_entry_for_each_code_in_order() -> None:
    described = [(match[1], match[2], match[3]) for match in ENTRY.finditer(PAGE)]
    assert described == [(kind.code, kind.title, kind.exit_code.name) for kind in ERROR_KINDS.values()]


def test_the_page_lists_each_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [(str(code.value), code.name) for code in ExitCode]


def test_codes_are_well_formed_and_titles_differ() -> None:
    assert all(re.fullmatch(r"HET-[A-Z]\d{3}", code) for code in ERROR_KINDS)
    assert len({kind.title for kind in ERROR_KINDS.values()}) == len(ERROR_KINDS)


def test_a_message_has_what_where_and_what_to_do() -> None:
    error = HetccError("HET-P002", "a and b need each other", where="layers.0", fix="move a")
    assert str(error) == "HET-P002  cyclic placement: a and b need each other\n  at:   layers.0\n  try:  move a"
    assert str(HetccError("HET-P002", "no")) == "HET-P002  cyclic placement: no"
    assert error.to_json() == {"code": "HET-P002", "title": "cyclic placement", "what": "a and b need each other",
                               "where": "layers.0", "fix": "move a"}
    assert error.exit_code is ExitCode.INFEASIBLE


def test_an_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        HetccError("HET-X999", "nothing")
