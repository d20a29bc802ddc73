"""A folder of things that took long to make, addressed by what they were made from. Safe to share between processes.

Two kinds of entry: compiled code as it is, and documents (captured graphs, proofs of rewrites, refusals) as compressed
JSON. A key names everything its entry depends on, versions and text of the code that made it included, so nothing here
ever has to be declared out of date.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

DEFAULT_LIMIT_BYTES = 2 << 30
_CODE = ".vmfb"
_DOCUMENT = ".json.z"
_ABANDONED_AFTER_S = 3600.0


def default_folder() -> Path:
    """``$HETCC_CACHE``, else ``~/.cache/hetcc``."""
    return Path(os.environ.get("HETCC_CACHE") or Path.home() / ".cache" / "hetcc")


def key_of(kind: str, *facts: Any) -> str:
    """A key for what is made from ``facts`` (plain data that JSON can spell)."""
    text = json.dumps([kind, *facts], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def text_digest(*folders: str) -> str:
    """SHA-256 over the Python files directly in folders of the package ``hetcc``."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((Path(__file__).parent / folder).glob("*.py")):
            text = file.read_bytes()
            digest.update(f"{folder}/{file.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


class Store:
    """Entries by key; the least recently used go when the folder grows over its limit.

    Args:
        folder: where; by default the user's cache folder.
        limit_bytes: of all entries together.
        fresh: know only what this object was given itself, so that everything is made anew and replaces what was kept.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES, *,
                 fresh: bool = False) -> None:
        self.folder = folder if folder is not None else default_folder()
        self.limit_bytes = limit_bytes
        self.fresh = fresh
        self._given: set[str] = set()

    def get(self, key: str) -> bytes | None:
        """The code under ``key``, or None; reading it makes it young again."""
        return self._read(key + _CODE)

    def put(self, key: str, data: bytes) -> None:
        """Stores code. A reader sees all of it or nothing; a folder that cannot be written stores nothing."""
        self._write(key + _CODE, data)

    def get_document(self, key: str) -> Any:
        """The document under ``key``, or None when there is none or it is damaged."""
        data = self._read(key + _DOCUMENT)
        if data is None:
            return None
        try:
            return json.loads(zlib.decompress(data))
        except (zlib.error, ValueError):
            return None

    def put_document(self, key: str, document: Any) -> None:
        """Stores plain data; as :meth:`put`."""
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        self._write(key + _DOCUMENT, zlib.compress(text.encode(), 1))

    def _read(self, name: str) -> bytes | None:
        if self.fresh and name not in self._given:
            return None
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def _write(self, name: str, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(unfinished).replace(self.folder / name)
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
            self._given.add(name)
            self._evict()

    def _evict(self) -> None:
        """Removes the oldest entries above the limit, and files that a killed process left unfinished."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                state = path.stat()
                if path.name.endswith((_CODE, _DOCUMENT)):
                    entries.append((state.st_mtime, state.st_size, path))
                elif path.suffix == ".part" and time.time() - state.st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
