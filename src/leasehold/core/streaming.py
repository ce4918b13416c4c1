"""Tink's AES256-GCM-HKDF-1MB streaming format: any segment opens alone, and a cut stream never does.

Spec: docs/spec/sealed-model.md, S-4 and S-5. Wire format: Google Tink, "Streaming AEAD", AES-GCM-HKDF
(developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming). Refuses to know what is inside.
"""

from __future__ import annotations

from typing import Final

from leasehold.core.crypto import Aead, hkdf
from leasehold.core.units import MIB
from leasehold.errors import BadSealedModel

KEY_BYTES: Final = 32
SEGMENT_BYTES: Final = (
    MIB  # as ciphertext, tag included; the first one also holds the stream header
)
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
PREFIX_BYTES: Final = 7
STREAM_HEADER_BYTES: Final = 1 + SALT_BYTES + PREFIX_BYTES
_PLAIN_BYTES: Final = SEGMENT_BYTES - TAG_BYTES


def segment_count(size: int) -> int:
    """How many segments a plaintext of `size` bytes has: at least one, and none but the only is empty."""
    return max(1, -(-(size + STREAM_HEADER_BYTES) // _PLAIN_BYTES))


def sealed_size(size: int) -> int:
    """The length of the whole stream for a plaintext of `size` bytes."""
    return STREAM_HEADER_BYTES + size + TAG_BYTES * segment_count(size)


def plain_range(size: int, index: int) -> tuple[int, int]:
    """Where segment `index` of a plaintext of `size` bytes begins and ends in that plaintext.

    Its ciphertext lies at `index * SEGMENT_BYTES` of the stream, after the header in the first one.
    """
    start = index * _PLAIN_BYTES - STREAM_HEADER_BYTES
    return max(0, start), min(size, start + _PLAIN_BYTES)


class Stream:
    """One stream of `size` plaintext bytes, open for sealing and reading under its own key."""

    __slots__ = ("_aead", "_last", "_name", "_prefix", "header", "size")

    def __init__(
        self, key: bytes, *, header: bytes, associated: bytes, size: int, name: str = "a stream"
    ) -> None:
        """`key` has 32 bytes; `associated` says what the stream is, `name` who. Raises BadSealedModel."""
        if len(header) != STREAM_HEADER_BYTES or header[0] != STREAM_HEADER_BYTES:
            raise BadSealedModel(about="stream header", got=header, expected="40 bytes, 40 first")
        salt, self._prefix = header[1 : 1 + SALT_BYTES], header[1 + SALT_BYTES :]
        self._aead = Aead(hkdf(key, salt=salt, info=associated, length=KEY_BYTES))
        self._last = segment_count(size) - 1
        self.header, self.size, self._name = header, size, name

    def seal_segment(self, index: int, plaintext: bytes | memoryview, out: memoryview) -> None:
        """Write segment `index` to `out`, 16 bytes longer: as it lies in the stream, after its header.

        A segment is sealed once: another plaintext under the same index would repeat a nonce.
        """
        self._aead.seal_into(self._nonce(index), plaintext, out)

    def open_segment(self, index: int, ciphertext: memoryview, out: memoryview) -> None:
        """Authenticate one segment and write its plaintext to `out`, which is 16 bytes shorter.

        `ciphertext` must be memory that nobody else can change meanwhile. Raises BadSealedModel.
        """
        start, end = plain_range(self.size, index)
        if len(out) != end - start or len(ciphertext) != end - start + TAG_BYTES:
            raise self._refused(
                index, f"{len(ciphertext)} bytes", f"{end - start + TAG_BYTES} bytes"
            )
        if not self._aead.open_into(self._nonce(index), ciphertext, out):
            raise self._refused(
                index, "bytes that nobody with the model key made", "authentic ones"
            )

    def _refused(self, index: int, got: str, expected: str) -> BadSealedModel:
        about = f"segment {index} of {self._last + 1} of {self._name}"
        return BadSealedModel(about=about, got=got, expected=expected)

    def _nonce(self, index: int) -> bytes:
        # The last one is marked, so a stream that ends early does not end in a last segment.
        return self._prefix + index.to_bytes(4, "big") + bytes([index == self._last])
