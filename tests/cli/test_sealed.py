"""`leasehold seal`, `sealed inspect`, `sealed verify`: what they print, and each refusal's reason."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.terminal import at_terminal
from leasehold.cli import main
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.statements import Signed, sign
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.custodian import settings
from leasehold.custodian.sealed_file import read_claim

CONTENTS = {"config.json": b"{}", "weights.gguf": os.urandom(3 * SEGMENT_BYTES + 5)}


def run(*words: object, code: int = 0) -> Any:
    """Run a command that must end with this status."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, (words, result.output, result.exception)
    return result


@dataclass
class Shop:
    """A custodian's folder with one sealed model in it."""

    folder: Path
    printed: str

    @property
    def file(self) -> Path:
        """The sealed model."""
        return self.folder / "models" / "tiny.sealed"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "models" / "tiny.key"

    @property
    def root(self) -> str:
        """The root key."""
        return settings.read_keys(self.folder).root.public.hex()

    def change(self, position: int) -> None:
        """Flip one bit of the sealed file."""
        data = bytearray(self.file.read_bytes())
        data[position] ^= 1
        self.file.write_bytes(data)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder, model = tmp_path / "custodian", tmp_path / "model"
    run("custodian", "init", folder)
    model.mkdir()
    for name, data in CONTENTS.items():
        (model / name).write_bytes(data)
    words = ("--engine", "llama", "--licence", "MIT", "--version", "7")
    done = run("seal", model, "--custodian", folder, "--name", "tiny", *words)
    return Shop(folder, done.stdout)


def test_seal_prints_the_digests_that_it_signs(shop: Shop) -> None:
    lines = shop.printed.splitlines()
    for name, data in CONTENTS.items():
        assert f"{name}\t{len(data):,}\t{hashlib.sha256(data).hexdigest()}" in lines


def test_at_a_terminal_a_bar_shows_how_far_it_is(shop: Shop, tmp_path: Path) -> None:
    where = ("--custodian", shop.folder)
    status, said = at_terminal(
        "seal", tmp_path / "model", *where, "--name", "again", "--engine", "llama"
    )
    assert status == 0, said
    assert re.search(r"Sealing .*100%", said)
    status, said = at_terminal("sealed", "verify", shop.file, *where)
    assert status == 0, said
    assert re.search(r"Verifying .*100%", said)


def test_inspect_needs_no_key_and_says_that_nobody_vouches(shop: Shop, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(shop.file.read_bytes())
    done = run("sealed", "inspect", elsewhere)
    for line in ("name: tiny", "engine: llama", "licence: MIT", "version: 7", "whole: True"):
        assert line in done.stdout.splitlines()
    assert "signed by: not checked" in done.stdout
    assert "give --root" in done.stderr
    assert hashlib.sha256(CONTENTS["config.json"]).hexdigest() in done.stdout


def test_inspect_with_the_root_says_who_signed(shop: Shop) -> None:
    done = run("sealed", "inspect", shop.file, "--root", shop.root, "--json")
    found = json.loads(done.stdout)
    assert found["signed by"] == f"root {shop.root}"
    assert found["digest"] == read_claim(shop.file).digest.hex()
    assert [file["name"] for file in found["files"]] == sorted(CONTENTS)
    assert found["files"][0]["bytes"] == 2
    assert done.stderr == ""
    refused = run("sealed", "inspect", shop.file, "--root", "11" * 32, code=2)
    assert "bad_signature" in refused.stderr
    assert refused.stdout == ""


def test_inspect_shows_a_cut_file_for_what_it_is(shop: Shop) -> None:
    size = shop.file.stat().st_size
    os.truncate(shop.file, size - 1)
    done = run("sealed", "inspect", shop.file)
    assert "whole: False" in done.stdout
    assert f"{size - 1:,} of {size:,} bytes" in done.stderr


def test_inspect_prints_nothing_that_a_terminal_obeys(shop: Shop) -> None:
    claim = read_claim(shop.file)
    signed = from_json(claim.data, Signed)
    payload = signed.payload.replace(b'"MIT"', rb'"\u001b[2J\nsigned by: me"')
    data = to_json(Signed(signed.kind, payload, signed.signature))
    body = shop.file.read_bytes()[29 + len(claim.data) :]
    shop.file.write_bytes(shop.file.read_bytes()[:25] + len(data).to_bytes(4) + data + body)
    done = run("sealed", "inspect", shop.file)
    assert "\x1b" not in done.output
    assert "licence: ?[2J?signed by: me" in done.stdout


@pytest.mark.parametrize("data", [b"", b"GGUF", b"x" * 100_000])
def test_what_is_no_sealed_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    done = run("sealed", "inspect", tmp_path / "file", code=2)
    assert "bad_sealed_model" in done.stderr
    assert "first line" in done.stderr
    assert "file_trouble" in run("sealed", "inspect", tmp_path / "none", code=5).stderr


def test_verify_checks_every_byte_with_the_custodians_folder(shop: Shop) -> None:
    done = run("sealed", "verify", shop.file, "--custodian", shop.folder)
    assert done.stdout == read_claim(shop.file).digest.hex() + "\n"
    assert done.stderr == ""


def test_verify_checks_every_byte_with_a_key_file(shop: Shop) -> None:
    done = run("sealed", "verify", shop.file, "--root", shop.root, "--model-key", shop.key)
    assert done.stdout == read_claim(shop.file).digest.hex() + "\n"


def test_verify_without_the_key_says_what_it_did_not_check(shop: Shop) -> None:
    shop.change(-1)  # only the key can tell
    done = run("sealed", "verify", shop.file, "--root", shop.root)
    assert "contents were not checked" in done.stderr
    done = run("sealed", "verify", shop.file, "--custodian", shop.folder, code=2)
    assert "segment 3 of 4 of weights.gguf" in done.stderr
    assert done.stdout == ""


def test_verify_wants_one_root(shop: Shop) -> None:
    both = ("--root", shop.root, "--custodian", shop.folder)
    assert "either --root" in run("sealed", "verify", shop.file, *both, code=2).stderr
    assert "either --root" in run("sealed", "verify", shop.file, code=2).stderr
    assert "bad_message" in run("sealed", "verify", shop.file, "--root", "xy", code=2).stderr


def test_verify_refuses_another_root_a_cut_file_and_a_wrong_key(shop: Shop, tmp_path: Path) -> None:
    done = run("sealed", "verify", shop.file, "--root", "11" * 32, code=2)
    assert "bad_signature" in done.stderr
    (tmp_path / "key").write_text("22" * 32)
    (tmp_path / "key").chmod(0o600)
    wrong = ("--root", shop.root, "--model-key", tmp_path / "key")
    assert "wrong_model_key" in run("sealed", "verify", shop.file, *wrong, code=3).stderr
    (tmp_path / "key").chmod(0o644)
    assert "mode 644" in run("sealed", "verify", shop.file, *wrong, code=2).stderr
    size = shop.file.stat().st_size
    for other in (size - 1, size + 1):
        os.truncate(shop.file, other)
        done = run("sealed", "verify", shop.file, "--root", shop.root, code=2)
        assert f"Got: {other} bytes. Expected: {size} bytes" in done.stderr


def test_verify_refuses_a_header_of_another_custodian_with_the_same_files(shop: Shop) -> None:
    claim = read_claim(shop.file)
    signed = from_json(claim.data, Signed)
    other = SigningKey.load(b"o" * 32)
    data = to_json(sign(other, signed.kind, signed.payload))
    whole = shop.file.read_bytes()
    shop.file.write_bytes(whole[:29] + data + whole[29 + len(data) :])
    assert run("sealed", "inspect", shop.file, "--root", other.public.hex())
    done = run("sealed", "verify", shop.file, "--custodian", shop.folder, code=2)
    assert "bad_signature" in done.stderr
