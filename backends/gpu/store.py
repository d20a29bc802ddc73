"""A folder of compiled modules, addressed by what they were made from. Safe to share between processes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

DEFAULT_LIMIT_BYTES = 2 << 30
_SUFFIX = ".vmfb"
_ABANDONED_AFTER_S = 3600.0


def default_folder() -> Path:
    """``$HETCC_CACHE``, else ``~/.cache/hetcc``."""
    return Path(os.environ.get("HETCC_CACHE") or Path.home() / ".cache" / "hetcc")


class ModuleStore:
    """Compiled modules by key; the least recently used go when the folder grows over its limit."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder if folder is not None else default_folder()
        self.limit_bytes = limit_bytes

    def get(self, key: str) -> bytes | None:
        """The module under ``key``, or None; reading it makes it young again."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Stores a module. A reader sees all of it or nothing; a folder that cannot be written stores nothing."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(unfinished).replace(self._path(key))
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
            self._evict()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _evict(self) -> None:
        """Removes the oldest modules above the limit, and files that a killed process left unfinished."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                state = path.stat()
                if path.suffix == _SUFFIX:
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
