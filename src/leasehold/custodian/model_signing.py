"""The OpenSSF's model signature: who made a model, under a key of theirs, over the SHA-256 of every file.

Spec: docs/spec/sealed-model.md, S-17 and S-18 (OpenSSF Model Signing 1.0; in-toto Statement 1; DSSE 1.0;
Sigstore bundle 0.3). A door to `cryptography`, for elliptic curve keys in PEM. Refuses certificates and
transparency logs: whose key it is, is for the custodian to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from leasehold.core.crypto import sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.sealed import MODEL_SIGNATURE_BYTES_MAX, SealedFile
from leasehold.errors import BadMessage, BadSetting, BadSignature

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://model_signing/signature/v1.0"
_HASHES: Final = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_ABOUT: Final = "model signature"
_SHOWN: Final = 3
_METHOD: Final = ("files", "sha256")


class _Key(msgspec.Struct):
    hint: str


class _Material(msgspec.Struct, rename="camel"):
    public_key: _Key | None = None
    tlog_entries: tuple[Any, ...] = ()


class _Signature(msgspec.Struct):
    sig: bytes
    keyid: str = ""


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: tuple[_Signature, ...]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = ()


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename={"kind": "_type", "predicate_type": "predicateType"}):
    kind: str
    subject: tuple[_Subject, ...]
    predicate_type: str
    predicate: _Predicate


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A public key of somebody who signs models."""

    _key: ec.EllipticCurvePublicKey

    @classmethod
    def load(cls, pem: bytes) -> SignerKey:
        """The key of a PEM SubjectPublicKeyInfo: P-256, P-384 or P-521. Raises BadSetting."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as cause:
            raise BadSetting(about="model signer", expected="a public key in PEM") from cause
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise BadSetting(about="model signer", expected="a key on P-256, P-384 or P-521")
        return cls(key)

    @property
    def hint(self) -> str:
        """How a bundle names the key: the SHA-256 of its PEM, in hex."""
        pem = self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return sha256(pem).hex()

    def check(self, data: bytes, signature: bytes) -> None:
        """ECDSA with the hash of the key's size. Raises BadSignature."""
        try:
            self._key.verify(signature, data, ec.ECDSA(_HASHES[self._key.curve.name]))
        except InvalidSignature as cause:
            raise BadSignature(about=_ABOUT, got="bytes that this key did not sign") from cause


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A private key that signs models."""

    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, pem: bytes, password: str | None = None) -> ModelKey:
        """The key of a PEM: P-256, P-384 or P-521. Raises BadSetting."""
        try:
            key = serialization.load_pem_private_key(pem, password.encode() if password else None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            # Their words may be of the key.
            expected = "a private key in PEM, and its password where it has one"
            raise BadSetting(about="key that signs models", expected=expected) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
            raise BadSetting(about="key that signs models", expected="P-256, P-384 or P-521")
        return cls(key)

    @property
    def public(self) -> SignerKey:
        """What checks its signatures."""
        return SignerKey(self._key.public_key())

    def sign(self, data: bytes) -> bytes:
        """ECDSA in DER."""
        return self._key.sign(data, ec.ECDSA(_HASHES[self._key.curve.name]))


def sign_model(files: Iterable[SealedFile], *, name: str, key: ModelKey) -> bytes:
    """S-17: a bundle over these files, for the header and for everybody's own tools."""
    ordered = sorted(files, key=lambda file: file.name)
    resources = tuple(_Resource(file.name, "sha256", file.sha256.hex()) for file in ordered)
    subject = _Subject(name, {"sha256": _root(resources).hex()})
    method, hash_type = _METHOD
    statement = _Statement(
        STATEMENT, (subject,), PREDICATE, _Predicate(_Serialization(method, hash_type), resources)
    )
    payload = to_json(statement)
    signature = _Signature(key.sign(pre_authentication(payload)))
    material = _Material(_Key(key.public.hint))
    return to_json(_Bundle(BUNDLE, material, _Envelope(payload, PAYLOAD, (signature,))))


def check_model_signature(bundle: bytes, files: Iterable[SealedFile], *, signer: SignerKey) -> str:
    """S-18: this signer vouches for exactly these files. Returns the signer's name for the model.

    Raises BadSignature, which says what differs.
    """
    parsed = _parse(bundle)
    key = parsed.verification_material.public_key
    if key is None:
        raise BadSignature(about=_ABOUT, got="a certificate or nothing", expected="a key's hint")
    if key.hint and key.hint != signer.hint:
        raise BadSignature(about=_ABOUT, got=f"key {key.hint}", expected=f"key {signer.hint}")
    payload, signatures = parsed.dsse_envelope.payload, parsed.dsse_envelope.signatures
    if len(signatures) != 1:
        raise BadSignature(about=_ABOUT, got=f"{len(signatures)} signatures", expected="one")
    signer.check(pre_authentication(payload), signatures[0].sig)
    statement = _read_statement(payload)
    _check_files(statement.predicate, {file.name: file.sha256.hex() for file in files})
    return statement.subject[0].name


def signer_hint(bundle: bytes) -> str:
    """Which key a bundle names; nobody has checked it. Raises BadSignature."""
    key = _parse(bundle).verification_material.public_key
    return key.hint if key is not None else "a certificate"


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _parse(bundle: bytes) -> _Bundle:
    if len(bundle) > MODEL_SIGNATURE_BYTES_MAX:
        expected = f"<= {MODEL_SIGNATURE_BYTES_MAX} bytes"
        raise BadSignature(about=_ABOUT, got=len(bundle), expected=expected)
    try:
        parsed = from_json(bundle, _Bundle)
    except BadMessage as cause:
        raise BadSignature(about=_ABOUT, got=cause.got, expected="a Sigstore bundle") from cause
    for got, expected in (
        (parsed.media_type, BUNDLE),
        (parsed.dsse_envelope.payload_type, PAYLOAD),
    ):
        if got != expected:
            raise BadSignature(about=_ABOUT, got=got, expected=expected)
    return parsed


def _read_statement(payload: bytes) -> _Statement:
    try:
        statement = from_json(payload, _Statement)
    except BadMessage as cause:
        raise BadSignature(about=_ABOUT, got=cause.got, expected="a statement on files") from cause
    serialization_ = statement.predicate.serialization
    wanted: tuple[tuple[object, object], ...] = (
        (statement.kind, STATEMENT),
        (statement.predicate_type, PREDICATE),
        ((serialization_.method, serialization_.hash_type), _METHOD),
        ({one.algorithm for one in statement.predicate.resources}, {"sha256"}),
        (len(statement.subject), 1),
    )
    for got, expected in wanted:
        if got != expected:
            raise BadSignature(about=_ABOUT, got=got, expected=expected)
    root = _root(statement.predicate.resources).hex()
    if statement.subject[0].digest.get("sha256") != root:
        said = statement.subject[0].digest.get("sha256")
        raise BadSignature(about=f"{_ABOUT}, digest of all files", got=said, expected=root)
    return statement


def _check_files(predicate: _Predicate, files: dict[str, str]) -> None:
    """Exactly these, less what the signer says, under the signature, that it left out."""
    signed = {one.name: one.digest for one in predicate.resources}
    ignored = set(predicate.serialization.ignore_paths)
    faults = {
        "not signed": files.keys() - signed.keys() - ignored,
        "signed and missing": signed.keys() - files.keys(),
        "changed": {name for name in signed.keys() & files.keys() if signed[name] != files[name]},
    }
    for fault, names in faults.items():
        if names:
            shown = ", ".join(sorted(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise BadSignature(about=_ABOUT, got=f"{fault}: {shown}{more}")


def _root(resources: Iterable[_Resource]) -> bytes:
    try:
        return sha256(b"".join(bytes.fromhex(one.digest) for one in resources))
    except ValueError as cause:
        raise BadSignature(about=_ABOUT, got="a digest that is no hex") from cause
