"""Bundles appear whole or not at all, and are opened only unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetcc.errors import UserError
from hetcc.plan import bundle
from hetcc.plan.bundle import MANIFEST, BundleFiles, check_writable, write_bundle

FILES = {"plan.json": b"{}", "gpu/a.vmfb": b"\x00\x01", "gpu/deep/b": b"", "fpga/c": b"c"}


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(code: str, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        BundleFiles(folder)
    assert caught.value.code == code
    return caught.value.what


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "new" / "bundle", FILES, replace=False)
    files = BundleFiles(folder)
    assert files.paths == tuple(sorted(FILES))
    assert {path: files.read(path) for path in FILES} == FILES
    assert files.below("gpu") == files.below("gpu/") == {"a.vmfb": b"\x00\x01", "deep/b": b""}
    again = write_bundle(tmp_path / "again", dict(reversed(FILES.items())), replace=False)
    assert everything(again) == everything(folder), "the order of the files does not show"
    with pytest.raises(UserError, match="no file 'other'") as caught:
        files.read("other")
    assert caught.value.code == "HET-B003"
    with pytest.raises(UserError):
        files.read(MANIFEST)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes
    written: list[Path] = []

    def full_disk(self: Path, content: bytes) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match="No space left on device") as caught:
        write_bundle(tmp_path / "bundle", FILES, replace=False)
    assert caught.value.code == "HET-B001" and len(written) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", ["write", "rename"])
def test_an_existing_bundle_survives_a_failed_replacement(stop: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path / "bundle", {"old": b"old"}, replace=False)
    before = everything(folder)
    rename = Path.rename
    calls: list[Path] = []

    def failing_rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    def failing_write(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, *(("write_bytes", failing_write) if stop == "write" else ("rename", failing_rename)))
    with pytest.raises(UserError) as caught:
        write_bundle(folder, FILES, replace=True)
    monkeypatch.undo()
    assert caught.value.code == "HET-B001"
    assert everything(folder) == before and BundleFiles(folder).read("old") == b"old"
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside it"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(staging: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "bundle", FILES, replace=False)
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_replaced(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", {"old": b"old"}, replace=False)
    with pytest.raises(UserError, match="already holds a bundle") as caught:
        write_bundle(folder, FILES, replace=False)
    assert caught.value.code == "HET-B001"
    assert write_bundle(folder, FILES, replace=True) == folder
    assert set(everything(folder)) == {*FILES, MANIFEST}, "no old file stays"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert BundleFiles(write_bundle(empty, FILES, replace=False)).read("fpga/c") == b"c"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("work")
    single = tmp_path / "file"
    single.write_text("work")
    for target in (precious, single):
        for replace in (False, True):
            for refuse in (check_writable, lambda place, *, replace: write_bundle(place, FILES, replace=replace)):
                with pytest.raises(UserError, match="is no bundle") as caught:
                    refuse(target, replace=replace)
                assert caught.value.code == "HET-B001"
    assert (precious / "thesis.txt").read_text() == single.read_text() == "work"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (check_writable, lambda place, *, replace: write_bundle(place, FILES, replace=replace)):
        with pytest.raises(UserError) as caught:
            write(tmp_path / "file" / "bundle", replace=False)
        assert caught.value.code == "HET-B001"
    check_writable(tmp_path / "some" / "where" / "new", replace=False)
    assert not (tmp_path / "some").exists(), "checking makes no folder"


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", FILES, replace=False)
    target = folder / "gpu" / "a.vmfb"
    target.write_bytes(b"\x00\x02")
    assert "'gpu/a.vmfb' was changed" in refused("HET-B003", folder)
    target.unlink()
    assert "'gpu/a.vmfb' is missing" in refused("HET-B003", folder)
    (folder / MANIFEST).unlink()
    assert MANIFEST in refused("HET-B002", folder)
    assert "nowhere" in refused("HET-B002", tmp_path / "nowhere")


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{", b'{"format": "hetcc-bundle/1"}', b'{"format": "hetcc-bundle/99", "files": {}}',
    b'{"format": "hetcc-bundle/1", "files": ["plan.json"]}', b"\xff\xfe",
])
def test_manifests_that_are_none(content: bytes, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", FILES, replace=False)
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refused("HET-B003", folder)


def test_a_manifest_does_not_reach_out_of_the_bundle(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    folder = write_bundle(tmp_path / "bundle", FILES, replace=False)
    (folder / "link").symlink_to(outside)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    digest = bundle._sha256(b"secret")
    for path in ("../secret", str(outside), "gpu/../../secret", "link"):
        (folder / MANIFEST).write_text(json.dumps({**manifest, "files": {**manifest["files"], path: digest}}))
        assert f"'{path}' is missing" in refused("HET-B003", folder)
