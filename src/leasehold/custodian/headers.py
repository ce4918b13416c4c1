"""The writer's half of a sealed model's header; no enclave needs it.

Spec: docs/spec/sealed-model.md, S-1 to S-4. Refuses to know where the model's files are.
"""

from __future__ import annotations

from leasehold.core.crypto import Entropy, SigningKey
from leasehold.core.encoding import to_json
from leasehold.core.sealed import (
    KIND,
    MAGIC,
    SealedFile,
    SealedHeader,
    SealedModel,
    check_header,
    parse_preamble,
)
from leasehold.core.statements import sign
from leasehold.core.streaming import PREFIX_BYTES, SALT_BYTES, STREAM_HEADER_BYTES, sealed_size
from leasehold.errors import BadSealedModel


def new_stream_header(entropy: Entropy) -> bytes:
    """Forty bytes: their own number, the salt of the stream's key, the prefix of its nonces."""
    return bytes([STREAM_HEADER_BYTES]) + entropy(SALT_BYTES) + entropy(PREFIX_BYTES)


def lay_out(files: list[tuple[str, int, bytes, bytes]]) -> tuple[SealedFile, ...]:
    """Files as (name, size, SHA-256, stream header), one stream after the other."""
    laid, offset = [], 0
    for name, size, digest, stream_header in files:
        length = sealed_size(size)
        laid.append(SealedFile(name, size, digest, offset, length, stream_header))
        offset += length
    return tuple(laid)


def write_header(header: SealedHeader, root: SigningKey) -> tuple[bytes, SealedModel]:
    """S-1, S-2: how the sealed file begins, and what it then is. Raises BadSealedModel."""
    data = to_json(sign(root, KIND, to_json(header)))
    start = MAGIC + len(data).to_bytes(4, "big")
    if parse_preamble(start) != len(data):
        raise BadSealedModel(about="header")
    return start + data, check_header(data, root_public=root.public)
