"""S-4: byte for byte Tink's format, in both directions; and everything that must not open."""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path

import pytest
import tink
from tink import proto_keyset_format, secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from leasehold.core.streaming import (
    SEGMENT_BYTES,
    STREAM_HEADER_BYTES,
    TAG_BYTES,
    Stream,
    plain_range,
    sealed_size,
    segment_count,
)
from leasehold.custodian.headers import new_stream_header
from leasehold.errors import BadSealedModel

KEY = bytes(range(32))
LABEL = b"what this is"
FIRST = SEGMENT_BYTES - STREAM_HEADER_BYTES - TAG_BYTES  # plaintext of a full first segment
FULL = SEGMENT_BYTES - TAG_BYTES
SIZES = (
    *(0, 1, 15, 16, 17, 4096),
    *(FIRST - 1, FIRST, FIRST + 1),
    *(FIRST + FULL - 1, FIRST + FULL, FIRST + FULL + 1),
    *(SEGMENT_BYTES, 3 * SEGMENT_BYTES + 5),
)


def _tink(key: bytes = KEY) -> streaming_aead.StreamingAead:
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_BYTES,
        derived_key_size=32,
        hkdf_hash_type=common_pb2.SHA256,
    )
    value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(params=params, key_value=key)
    data = tink_pb2.KeyData(
        type_url=template.type_url,
        value=value.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW
    )
    handle = proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def _seal(plain: bytes, key: bytes = KEY, label: bytes = LABEL) -> bytes:
    header = new_stream_header(os.urandom)
    stream = Stream(key, header=header, associated=label, size=len(plain))
    sealed = bytearray(header)
    for index in range(segment_count(len(plain))):
        start, end = plain_range(len(plain), index)
        out = bytearray(end - start + TAG_BYTES)
        stream.seal_segment(index, plain[start:end], memoryview(out))
        sealed += out
    return bytes(sealed)


def _open(sealed: bytes, size: int, key: bytes = KEY, label: bytes = LABEL) -> bytes:
    stream = Stream(key, header=sealed[:STREAM_HEADER_BYTES], associated=label, size=size)
    plain = bytearray(size)
    for index in reversed(range(segment_count(size))):  # any order does
        start, end = plain_range(size, index)
        at = index * SEGMENT_BYTES or STREAM_HEADER_BYTES
        data = memoryview(sealed)[at : min(len(sealed), (index + 1) * SEGMENT_BYTES)]
        stream.open_segment(index, data, memoryview(plain)[start:end])
    return bytes(plain)


@pytest.mark.parametrize("size", SIZES)
def test_tink_reads_what_we_write(size: int) -> None:
    plain = os.urandom(size)
    sealed = _seal(plain)
    assert len(sealed) == sealed_size(size)
    assert _tink().new_decrypting_stream(io.BytesIO(sealed), LABEL).read() == plain


@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_tink_writes(size: int, tmp_path: Path) -> None:
    plain, path = os.urandom(size), tmp_path / "stream"
    with path.open("wb") as target, _tink().new_encrypting_stream(target, LABEL) as stream:
        stream.write(plain)
    sealed = path.read_bytes()
    assert len(sealed) == sealed_size(size)
    assert _open(sealed, size) == plain


def test_tink_refuses_what_we_refuse() -> None:
    sealed = _seal(b"weights")
    with pytest.raises((tink.TinkError, OSError)):
        _tink().new_decrypting_stream(io.BytesIO(sealed), b"another label").read()
    with pytest.raises(BadSealedModel, match="segment 0"):
        _open(sealed, 7, label=b"another label")


def test_the_plain_ranges_tile_the_plaintext() -> None:
    for size in SIZES:
        ranges = [plain_range(size, index) for index in range(segment_count(size))]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == size
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
        assert all(start < end for start, end in ranges) or size == 0


def test_a_cut_stream_does_not_open_at_any_length() -> None:
    size = FIRST + FULL + 100
    sealed = _seal(os.urandom(size))
    for shorter in (size - 1, FIRST + FULL, FIRST + 7, FIRST, 5, 0):
        with pytest.raises(BadSealedModel, match="segment"):
            _open(sealed[: sealed_size(shorter)], shorter)


def test_an_extended_stream_does_not_open() -> None:
    size = FIRST
    sealed = _seal(os.urandom(size))
    with pytest.raises(BadSealedModel, match="segment"):
        _open(sealed + bytes(FULL + TAG_BYTES), size + FULL)


def test_exchanged_segments_do_not_open() -> None:
    size = FIRST + 2 * FULL
    sealed = _seal(os.urandom(size))
    one, two = sealed[SEGMENT_BYTES : 2 * SEGMENT_BYTES], sealed[2 * SEGMENT_BYTES :]
    with pytest.raises(BadSealedModel, match="segment"):
        _open(sealed[:SEGMENT_BYTES] + two + one, size)


@pytest.mark.parametrize("position", [1, 33, 39, 40, 46, 47, 62])
def test_a_changed_bit_does_not_open(position: int) -> None:
    sealed = bytearray(_seal(b"weights"))
    sealed[position] ^= 1
    with pytest.raises(BadSealedModel, match="segment 0"):
        _open(bytes(sealed), 7)


def test_a_wrong_length_and_a_wrong_header_are_refused() -> None:
    sealed = _seal(b"weights")
    with pytest.raises(BadSealedModel, match="stream header"):
        _open(b"\x29" + sealed[1:], 7)
    with pytest.raises(BadSealedModel, match="stream header"):
        Stream(KEY, header=sealed[:39], associated=LABEL, size=7)
    with pytest.raises(BadSealedModel, match="segment 0"):
        _open(sealed[:-1], 7)
    stream = Stream(KEY, header=sealed[:40], associated=LABEL, size=7)
    with pytest.raises(BadSealedModel, match="segment 0"):
        stream.open_segment(0, memoryview(sealed)[40:], memoryview(bytearray(8)))
