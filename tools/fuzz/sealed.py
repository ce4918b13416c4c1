"""Parsers of sealed models and keys: what they read is signed or wrapped, so each input is signed first."""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.crypto import SigningKey, TlsKey, sha256
from leasehold.core.encoding import b64, to_json, unb64
from leasehold.core.sealed import KIND, OpenModel, SealedHeader, check_header, key_check, spans
from leasehold.core.statements import sign
from leasehold.custodian.headers import lay_out
from leasehold.custodian.model_signing import (
    BUNDLE,
    PAYLOAD,
    ModelKey,
    check_model_signature,
    pre_authentication,
    sign_model,
)
from leasehold.custodian.wrapping.passphrase import PassphraseKeeper
from leasehold.custodian.wrapping.record import (
    ByToken,
    ByTransit,
    close_inside,
    format_wrapped,
    open_inside,
    parse_wrapped,
)

ROOT: Final = SigningKey.load(b"r" * 32)
KEY: Final = b"k" * 32
FILES: Final = lay_out([("model.gguf", 5, sha256(b"model"), b"\x28" * 40)])
MAKER: Final = ModelKey.load(TlsKey.make(lambda size: b"\x07" * size).pem)
KEEPER: Final = PassphraseKeeper(lambda: "a long passphrase", lambda size: b"\x01" * size, 14)


def header() -> bytes:
    """The payload of a sealed header."""
    check = key_check(KEY, b"i" * 32)
    made = SealedHeader(1, "tiny", "1", "llama", "MIT", b"i" * 32, check, FILES, bundle())
    return to_json(made)


def read_header(payload: bytes) -> object:
    """As the custodian would have signed it."""
    model = check_header(to_json(sign(ROOT, KIND, payload)), root_public=ROOT.public)
    OpenModel(model, KEY)
    return sum(span.length for span, _ in zip(spans(model), range(100), strict=False))


def wrapped_keys() -> list[bytes]:
    """One record of each keeper."""
    what = "root.key"
    return [
        format_wrapped(KEEPER.wrap(what, close_inside(what, b"secret"))),
        format_wrapped(ByToken(what, "token", "key", b"n" * 12, b"sealed")),
        format_wrapped(ByTransit(what, "transit", "key", "vault:v1:AAAA")),
    ]


def read_wrapped(data: bytes) -> object:
    """The record; its plaintext too, where a keeper gave the bytes as they are."""
    wrapped = parse_wrapped(data, what="root.key")
    if isinstance(wrapped.sealed, bytes) and wrapped.sealed.startswith(b"{"):
        return open_inside("root.key", wrapped.sealed)
    return wrapped


def bundle() -> bytes:
    """A model signature."""
    return sign_model(FILES, name="tiny", key=MAKER)


def statements() -> list[bytes]:
    """The statement in a bundle."""
    envelope = msgspec.json.decode(bundle())["dsseEnvelope"]
    return [unb64(envelope["payload"])]


def read_bundle(data: bytes) -> object:
    """A bundle as somebody sent it."""
    return check_model_signature(data, FILES, signer=MAKER.public)


def read_statement(payload: bytes) -> object:
    """A statement that the right key signed."""
    signature = MAKER.sign(pre_authentication(payload))
    made = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": b64(payload),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": b64(signature), "keyid": ""}],
        },
    }
    return check_model_signature(to_json(made), FILES, signer=MAKER.public)
