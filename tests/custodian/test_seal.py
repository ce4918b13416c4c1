"""Sealing a folder: what comes out, what is refused, and that nothing half-made stays behind."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.custodian import seal as sealing
from leasehold.custodian.seal import Sealed, seal_folder
from leasehold.custodian.sealed_file import verify_sealed
from leasehold.errors import (
    AlreadyExists,
    BadModel,
    BadSealedModel,
    BadSignature,
    FileTrouble,
    WrongModelKey,
)

ROOT = SigningKey.load(b"r" * 32)
CONTENTS = {"model.gguf": os.urandom(3 * SEGMENT_BYTES + 7), "config.json": b"{}", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name, data in CONTENTS.items():
        (made / name).write_bytes(data)
    return made


def do(folder: Path, out: Path, **more: object) -> Sealed:
    """Seal with the plainest arguments."""
    return seal_folder(
        folder,
        out,
        name="tiny",
        version="1",
        engine="llama",
        licence="Apache-2.0",
        root_key=ROOT,
        entropy=os.urandom,
        **more,  # type: ignore[arg-type]
    )


def check(out: Path, key: bytes) -> Sealed:
    """Verify with the right root."""
    return Sealed(verify_sealed(out, root_public=ROOT.public, model_key=key), key)


def test_a_sealed_folder_verifies(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.sealed"
    sealed = do(folder, out)
    assert check(out, sealed.model_key) == sealed
    assert len(sealed.model_key) == 32
    assert sealed.digest == sealed.model.digest
    assert out.stat().st_size == sealed.model.sealed_bytes
    assert [file.name for file in sealed.model.header.files] == sorted(CONTENTS)
    for file in sealed.model.header.files:
        assert (file.size, file.sha256) == (len(CONTENTS[file.name]), sha256(CONTENTS[file.name]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tiny.sealed"]
    assert out.stat().st_mode & 0o077 == 0


def test_no_plaintext_is_in_the_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.sealed"
    key = do(folder, out).model_key
    data = out.read_bytes()
    assert CONTENTS["model.gguf"][:64] not in data
    assert key not in data


def test_two_sealings_share_nothing(folder: Path, tmp_path: Path) -> None:
    one, two = (do(folder, tmp_path / name) for name in ("one", "two"))
    assert one.model_key != two.model_key
    assert one.digest != two.digest
    with pytest.raises(WrongModelKey):
        check(tmp_path / "one", two.model_key)


def test_progress_counts_both_passes(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    do(folder, tmp_path / "out", on_progress=lambda done, total: told.append((done, total)))
    total = 2 * sum(map(len, CONTENTS.values()))
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_s8_links_folders_and_devices_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(BadModel, match="a link"):
        do(folder, tmp_path / "out")
    (folder / "link").unlink()
    (folder / "sub").mkdir()
    with pytest.raises(BadModel, match="a folder"):
        do(folder, tmp_path / "out")
    (folder / "sub").rmdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(BadModel, match="special"):
        do(folder, tmp_path / "out")
    (folder / "pipe").unlink()
    (folder / "a\nb").write_bytes(b"")
    with pytest.raises(BadModel, match="file name"):
        do(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_s8_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadModel, match="0 files"):
        do(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileTrouble, match="No such file"):
        do(tmp_path / "missing", tmp_path / "out")


def test_s9_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(AlreadyExists):
        do(folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("change", [b"", b"[]", b"{}longer", b"{"])
def test_s9_a_file_that_changes_between_the_passes_is_refused(
    folder: Path, tmp_path: Path, change: bytes
) -> None:
    def meddle(done: int, total: int) -> None:
        if done == total // 2:
            (folder / "config.json").write_bytes(change)

    with pytest.raises(BadModel, match="changes"):
        do(folder, tmp_path / "out", on_progress=meddle)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_s9_a_failing_disk_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(target: io.FileIO, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealing, "_write", full)
    with pytest.raises(FileTrouble, match="No space left"):
        do(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_s10_damage_is_found(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    key = do(folder, out).model_key
    good = out.read_bytes()
    for bad in (good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1]), good[:20], b""):
        out.write_bytes(bad)
        with pytest.raises(BadSealedModel):
            check(out, key)
    out.write_bytes(good)
    with pytest.raises(BadSignature):
        verify_sealed(out, root_public=SigningKey.load(b"x" * 32).public, model_key=key)
    with pytest.raises(FileTrouble):
        check(tmp_path / "missing", key)


def test_s10_the_hash_is_compared_too(folder: Path, tmp_path: Path) -> None:
    """Somebody with the key makes other ciphertext under the signed header: only the hash tells."""
    out = tmp_path / "out"
    sealed = do(folder, out)
    opened = sealing.OpenModel(sealed.model, sealed.model_key)
    record = sealed.model.header.files[0]
    forged = bytearray(record.size + 16)
    opened.stream(0).seal_segment(0, b"x" * record.size, memoryview(forged))
    data = bytearray(out.read_bytes())
    data[sealed.model.body + 40 : sealed.model.body + record.length] = forged
    out.write_bytes(data)
    with pytest.raises(BadSealedModel, match=r"config\.json"):
        check(out, sealed.model_key)
