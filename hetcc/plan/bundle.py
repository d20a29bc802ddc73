"""The bundle on disk: written whole or not at all, checked against its manifest when it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hetcc.errors import UserError

MANIFEST = "manifest.json"
PLAN_FILE = "plan.json"
BUNDLE_FORMAT = "hetcc-bundle/1"


def write_bundle(target: Path, files: Mapping[str, bytes], *, replace: bool) -> Path:
    """Write ``files`` (path in the bundle -> contents) as the folder ``target``.

    Everything is first written beside the target and then renamed, so that an interrupted run leaves no half bundle.

    Raises:
        UserError: HET-B001, the folder exists (and is not to be replaced, or is no bundle) or cannot be written.
    """
    target = target.expanduser().absolute()
    _check_target(target, replace=replace)
    manifest = {"format": BUNDLE_FORMAT, "files": {path: _sha256(files[path]) for path in sorted(files)}}
    everything = {**files, MANIFEST: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError("HET-B001", f"cannot write beside '{target}': {error.strerror}", where=str(target),
                        fix="choose another folder with --output") from error
    try:
        for path, content in everything.items():
            place = staging / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        staging.chmod(0o755)
        _swap(staging, target)
    except OSError as error:
        raise UserError("HET-B001", f"cannot write '{target}': {error.strerror}", where=str(target),
                        fix="free some space or choose another folder with --output") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def check_writable(target: Path, *, replace: bool) -> None:
    """Refuse early what :func:`write_bundle` would refuse after a long compile.

    Raises:
        UserError: HET-B001.
    """
    target = target.expanduser().absolute()
    _check_target(target, replace=replace)
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("HET-B001", f"cannot write to '{parent}'", where=str(target),
                        fix="choose another folder with --output")


def _check_target(target: Path, *, replace: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir() or not (target / MANIFEST).is_file():
        empty = target.is_dir() and not any(target.iterdir())
        if not empty:
            raise UserError("HET-B001", f"'{target}' exists and is no bundle", where=str(target),
                            fix="choose another folder with --output")
    elif not replace:
        raise UserError("HET-B001", f"'{target}' already holds a bundle", where=str(target),
                        fix="give --force to replace it, or another folder with --output")


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class BundleFiles:
    """Read access to a bundle whose files were all found unchanged.

    Raises:
        UserError: HET-B002, not a bundle; HET-B003, a file is missing, added or changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        manifest = self._manifest()
        self.paths: tuple[str, ...] = tuple(sorted(manifest))
        for path, expected in manifest.items():
            self._check(path, expected)

    def _manifest(self) -> dict[str, str]:
        place = self.folder / MANIFEST
        if not place.is_file():
            raise UserError("HET-B002", f"'{self.folder}' holds no {MANIFEST}", where=str(self.folder),
                            fix="name a folder written by `hetcc compile`")
        try:
            document = json.loads(place.read_bytes())
            files = document["files"]
            if document["format"] != BUNDLE_FORMAT or not isinstance(files, dict):
                raise ValueError(f"format {document['format']!r}, expected {BUNDLE_FORMAT!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("HET-B003", f"{MANIFEST} cannot be read: {error}", where=str(place),
                            fix="compile the model again") from error
        return {str(path): str(digest) for path, digest in files.items()}

    def _check(self, path: str, expected: str) -> None:
        place = self.folder / path
        if not place.resolve().is_relative_to(self.folder.resolve()) or not place.is_file():
            raise UserError("HET-B003", f"'{path}' is missing", where=str(self.folder), fix="compile the model again")
        with place.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != expected:
            raise UserError("HET-B003", f"'{path}' was changed after it was written (sha256 {actual[:12]}, "
                            f"expected {expected[:12]})", where=str(place), fix="compile the model again")

    def read(self, path: str) -> bytes:
        """Contents of a file of the bundle.

        Raises:
            UserError: HET-B003, the bundle has no such file.
        """
        if path not in self.paths:
            raise UserError("HET-B003", f"the bundle has no file '{path}'", where=str(self.folder),
                            fix="compile the model again")
        return (self.folder / path).read_bytes()

    def below(self, folder: str) -> dict[str, bytes]:
        """Contents of all files under a folder of the bundle, by path relative to it."""
        prefix = folder.rstrip("/") + "/"
        return {path.removeprefix(prefix): self.read(path) for path in self.paths if path.startswith(prefix)}
