"""The folder of things that took long to make: shared, bounded, and never believed when damaged."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hetcc.store import Store, default_folder, key_of, text_digest


def test_the_store_is_safe_under_concurrency(tmp_path: Path) -> None:
    stores = [Store(tmp_path, limit_bytes=300_000) for _ in range(4)]

    def work(number: int) -> bool:
        store, key = stores[number % 4], f"key{number % 7}"
        store.put(key, bytes([number % 7]) * 60_000)
        found = store.get(key)
        return found is None or found == bytes([number % 7]) * 60_000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 360_000
    assert not list(tmp_path.glob("*.part"))


def test_the_store_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=25)
    for age, key in ((300, "old"), (200, "used"), (100, "new")):
        store.put(key, b"0123456789")
        path = tmp_path / f"{key}.vmfb"
        if path.exists():
            os.utime(path, (time.time() - age, time.time() - age))
        if key == "used":
            assert store.get("old") is not None
            os.utime(tmp_path / "used.vmfb", (time.time() - 500, time.time() - 500))
    assert store.get("used") is None
    assert store.get("old") is not None
    assert store.get("new") is not None


def test_a_store_that_cannot_be_written_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    store = Store(tmp_path / "file")
    store.put("key", b"data")
    assert store.get("key") is None


def test_the_folder_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HETCC_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("HETCC_CACHE")
    assert default_folder() == Path.home() / ".cache" / "hetcc"


def test_documents_and_code_are_kept_apart_and_bounded_together(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=100)
    document = {"a": [1, 2.5, None, "text"], "b": {"c": True}}
    store.put("key", b"code")
    store.put_document("key", document)
    assert store.get("key") == b"code"
    assert store.get_document("key") == document
    assert store.get_document("other") is None
    os.utime(tmp_path / "key.json.z", (1, 1))
    store.put("new", bytes(90))
    assert store.get_document("key") is None, "the oldest entry went, whatever its kind"


@pytest.mark.parametrize("damage", [b"", b"no archive", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_a_damaged_document_is_none(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    store.put_document("key", [1])
    (tmp_path / "key.json.z").write_bytes(damage)
    assert store.get_document("key") is None


def test_a_fresh_store_knows_only_what_it_was_given(tmp_path: Path) -> None:
    Store(tmp_path).put("old", b"old")
    fresh = Store(tmp_path, fresh=True)
    assert fresh.get("old") is None
    fresh.put("old", b"new")
    assert fresh.get("old") == b"new"
    assert Store(tmp_path).get("old") == b"new"


def test_keys_depend_on_every_fact() -> None:
    keys = [key_of("a", 1), key_of("b", 1), key_of("a", 2), key_of("a", "1"), key_of("a", [1]), key_of("a", 1, None)]
    assert len(set(keys)) == len(keys)
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert text_digest("ir") != text_digest("aten") != text_digest("ir", "aten")
