"""Model signatures: with the OpenSSF's own tool in both directions, and everything that must not pass."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from leasehold.cli import main
from leasehold.core.crypto import sha256
from leasehold.core.sealed import SealedFile
from leasehold.custodian.headers import lay_out
from leasehold.custodian.model_signing import (
    ModelKey,
    SignerKey,
    check_model_signature,
    pre_authentication,
    sign_model,
)
from leasehold.custodian.sealed_file import read_claim
from leasehold.errors import BadSetting, BadSignature

CONTENTS = {"config.json": b"{}", "model.gguf": os.urandom(5000), "z.txt": b""}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def pem(key: Any, password: bytes | None = None) -> bytes:
    """A private key as OpenSSL writes it."""
    cover = serialization.BestAvailableEncryption(password) if password else None
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            cover or serialization.NoEncryption(),
        )
    )


def public_pem(key: Any) -> bytes:
    """Its public half."""
    return bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@dataclass
class Maker:
    """Somebody who makes a model and has a key."""

    folder: Path
    key: Any
    place: Path

    @property
    def secret(self) -> Path:
        """The key in a file."""
        return self._file("key.pem", pem(self.key))

    @property
    def public(self) -> Path:
        """The public key in a file."""
        return self._file("public.pem", public_pem(self.key))

    @property
    def signer(self) -> SignerKey:
        """The public key."""
        return SignerKey.load(public_pem(self.key))

    def sign(self) -> bytes:
        """Sign the folder with our code."""
        return sign_model(listing(self.folder), name="tiny", key=ModelKey.load(pem(self.key)))

    def _file(self, name: str, data: bytes) -> Path:
        (self.place / name).write_bytes(data)
        (self.place / name).chmod(0o600)
        return self.place / name


def listing(folder: Path) -> tuple[SealedFile, ...]:
    """The files as a sealed header lists them."""
    found = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    return lay_out([(name, len(data), sha256(data), b"\x28" * 40) for name, data in found])


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return make_maker(tmp_path, ec.SECP256R1())


def make_maker(place: Path, curve: Any) -> Maker:
    """A model of three files."""
    folder = place / "model"
    folder.mkdir()
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    return Maker(folder, ec.generate_private_key(curve), place)


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    """The OpenSSF's own command line."""
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# The OpenSSF's tool -------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES)
def test_s17_their_tool_checks_ours_and_we_check_theirs(tmp_path: Path, curve: str) -> None:
    maker = make_maker(tmp_path, CURVES[curve])
    (tmp_path / "ours.sig").write_bytes(maker.sign())
    words = ("--signature", tmp_path / "ours.sig", "--public_key", maker.public)
    done = tool("verify", "key", maker.folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    words = ("--private_key", maker.secret, "--signature", tmp_path / "theirs.sig")
    done = tool("sign", "key", maker.folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = (tmp_path / "theirs.sig").read_bytes()
    assert check_model_signature(bundle, listing(maker.folder), signer=maker.signer) == "model"


def test_s17_their_tool_refuses_ours_for_a_changed_model(maker: Maker) -> None:
    (maker.place / "sig").write_bytes(maker.sign())
    (maker.folder / "z.txt").write_bytes(b"changed")
    words = ("--signature", maker.place / "sig", "--public_key", maker.public)
    assert tool("verify", "key", maker.folder, *words).returncode != 0


def test_s18_what_the_signer_left_out_may_lie_beside_the_model(maker: Maker) -> None:
    """Their tool leaves out `.gitattributes` and the signature itself, and signs that it does."""
    (maker.folder / ".gitattributes").write_bytes(b"*.gguf filter=lfs")
    words = ("--private_key", maker.secret, "--signature", maker.place / "sig")
    assert tool("sign", "key", maker.folder, *words).returncode == 0
    bundle = (maker.place / "sig").read_bytes()
    check_model_signature(bundle, listing(maker.folder), signer=maker.signer)
    (maker.folder / "extra.bin").write_bytes(b"")
    with pytest.raises(BadSignature, match=r"not signed: extra\.bin"):
        check_model_signature(bundle, listing(maker.folder), signer=maker.signer)


# What must not pass -------------------------------------------------------------------------------


def refused(maker: Maker, bundle: bytes, match: str) -> None:
    """The bundle does not vouch for the folder, for this reason."""
    with pytest.raises(BadSignature, match=match):
        check_model_signature(bundle, listing(maker.folder), signer=maker.signer)


def test_s18_other_files_are_refused_by_name(maker: Maker) -> None:
    bundle = maker.sign()
    (maker.folder / "model.gguf").write_bytes(b"another")
    refused(maker, bundle, r"changed: model\.gguf")
    (maker.folder / "model.gguf").rename(maker.folder / "model.bin")
    refused(maker, bundle, r"not signed: model\.bin")
    (maker.folder / "model.bin").unlink()
    refused(maker, bundle, r"signed and missing: model\.gguf")
    for number in range(5):
        (maker.folder / f"a{number}").write_bytes(b"")
    refused(maker, bundle, "not signed: a0, a1, a2 and 2 more")


def test_s18_another_key_is_refused(maker: Maker) -> None:
    bundle = json.loads(maker.sign())
    maker.key = ec.generate_private_key(ec.SECP256R1())
    refused(maker, json.dumps(bundle).encode(), "key [0-9a-f]{64}. Expected: key")
    for hint in (maker.signer.hint, ""):
        bundle["verificationMaterial"]["publicKey"]["hint"] = hint
        refused(maker, json.dumps(bundle).encode(), "this key did not sign")


def resigned(maker: Maker, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A statement that was changed before it was signed, by the right key."""
    bundle = json.loads(maker.sign())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    signature = ModelKey.load(pem(maker.key)).sign(pre_authentication(payload))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(bundle).encode()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "Statement/v0.1"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "slsa.dev"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "shards"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="blake3"), "blake3"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "md5"),
        (lambda s: s["predicate"]["resources"][0].update(digest="no"), "no hex"),
        (lambda s: s["subject"].append(s["subject"][0]), "Got: 2"),
        (lambda s: s["subject"][0]["digest"].update(sha256="00"), "digest of all files"),
        (lambda s: s["subject"][0]["digest"].clear(), "digest of all files"),
        (lambda s: s.pop("predicate"), "a statement on files"),
        (lambda s: s["predicate"].update(resources=[]), "sha256"),
    ],
)
def test_s18_a_statement_of_another_kind_is_refused(
    maker: Maker, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    refused(maker, resigned(maker, change), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: b.update(mediaType="application/json"), "application/json"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "text/plain"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "0 signatures"),
        (lambda b: b["dsseEnvelope"]["signatures"].append({"sig": "AA=="}), "2 signatures"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AA=="), "did not sign"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="%"), "a Sigstore bundle"),
        (lambda b: b.update(verificationMaterial={"certificate": {}}), "a certificate or nothing"),
        (lambda b: b.pop("dsseEnvelope"), "a Sigstore bundle"),
    ],
)
def test_s18_a_bundle_of_another_kind_is_refused(
    maker: Maker, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    bundle = json.loads(maker.sign())
    change(bundle)
    refused(maker, json.dumps(bundle).encode(), match)


def test_s18_no_bundle_at_all_is_refused(maker: Maker) -> None:
    refused(maker, b"", "a Sigstore bundle")
    refused(maker, b"[]", "a Sigstore bundle")
    refused(maker, b" " * (1 << 20), "bytes")


def test_s18_a_changed_payload_is_refused(maker: Maker) -> None:
    bundle = json.loads(maker.sign())
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload[-3] ^= 1
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    refused(maker, json.dumps(bundle).encode(), "did not sign")


def test_keys_of_other_kinds_are_refused() -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(BadSetting, match="P-256"):
            SignerKey.load(public_pem(key))
        with pytest.raises(BadSetting, match="P-256"):
            ModelKey.load(pem(key))
    with pytest.raises(BadSetting, match="a public key in PEM"):
        SignerKey.load(b"-----BEGIN NOTHING-----")
    locked = pem(ec.generate_private_key(ec.SECP256R1()), b"a password")
    for password in (None, "wrong"):
        with pytest.raises(BadSetting, match="its password") as refusal:
            ModelKey.load(locked, password)
        assert refusal.value.__cause__ is None
    assert ModelKey.load(locked, "a password")


# The commands -------------------------------------------------------------------------------------


def run(*words: object, code: int = 0) -> Any:
    """Run a command that must end with this status."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, (words, result.output, result.exception)
    return result


@pytest.fixture
def office(tmp_path: Path) -> Path:
    """A custodian's folder."""
    run("custodian", "init", tmp_path / "custodian")
    return tmp_path / "custodian"


def seal(maker: Maker, office: Path, *more: object, code: int = 0) -> Any:
    """Seal the maker's folder."""
    words = ("--custodian", office, "--name", "tiny", "--engine", "llama", *more)
    return run("seal", maker.folder, *words, code=code)


def test_s17_seal_signs_and_verify_checks(maker: Maker, office: Path, tmp_path: Path) -> None:
    done = seal(maker, office, "--sign-model", maker.secret)
    assert f"model signature: key {maker.signer.hint}" in done.stdout
    file = office / "models" / "tiny.sealed"
    verify = ("sealed", "verify", file, "--custodian", office, "--model-signer", maker.public)
    run(*verify)
    out = tmp_path / "out.sig"
    run("sealed", "signature", file, "--out", out)
    words = ("--signature", out, "--public_key", maker.public)
    assert tool("verify", "key", maker.folder, *words).returncode == 0
    maker.key = ec.generate_private_key(ec.SECP384R1())
    assert maker.public.exists()
    assert "bad_signature" in run(*verify, code=2).stderr


def test_s17_seal_carries_the_makers_signature(maker: Maker, office: Path) -> None:
    (maker.place / "sig").write_bytes(maker.sign())
    theirs = ("--model-signature", maker.place / "sig", "--model-signer", maker.public)
    seal(maker, office, *theirs)
    claim = read_claim(office / "models" / "tiny.sealed")
    assert claim.header.model_signature == (maker.place / "sig").read_bytes()


def test_s17_seal_refuses_what_the_maker_did_not_sign(maker: Maker, office: Path) -> None:
    (maker.place / "sig").write_bytes(maker.sign())
    (maker.folder / "model.gguf").write_bytes(b"poisoned")
    theirs = ("--model-signature", maker.place / "sig", "--model-signer", maker.public)
    done = seal(maker, office, *theirs, code=2)
    assert "changed: model.gguf" in done.stderr
    assert list((office / "models").iterdir()) == []


def test_s17_a_signature_without_its_signer_is_refused(maker: Maker, office: Path) -> None:
    (maker.place / "sig").write_bytes(maker.sign())
    for words in (
        ("--model-signature", maker.place / "sig"),
        ("--model-signer", maker.public),
        (
            *("--model-signature", maker.place / "sig", "--model-signer", maker.public),
            *("--sign-model", maker.secret),
        ),
    ):
        assert "--model-signature with" in seal(maker, office, *words, code=2).stderr


def test_s18_a_model_without_a_signature_says_so(maker: Maker, office: Path) -> None:
    assert "model signature: none" in seal(maker, office).stdout
    file = office / "models" / "tiny.sealed"
    words = ("--custodian", office, "--model-signer", maker.public)
    assert "Got: none" in run("sealed", "verify", file, *words, code=2).stderr
    assert "not_found" in run("sealed", "signature", file, code=4).stderr


def test_s18_verify_compares_with_the_signed_digests_without_the_model_key(
    maker: Maker, office: Path
) -> None:
    seal(maker, office, "--sign-model", maker.secret)
    file = office / "models" / "tiny.sealed"
    (office / "models" / "tiny.key").unlink()
    words = ("--custodian", office, "--model-signer", maker.public)
    assert "contents were not checked" in run("sealed", "verify", file, *words).stderr
