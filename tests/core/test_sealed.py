"""The sealed model's header and layout: what is refused, and that nothing else can happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core import sealed
from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import to_json
from leasehold.core.sealed import (
    HEADER_BYTES_MAX,
    MAGIC,
    PREAMBLE_BYTES,
    OpenModel,
    SealedFile,
    SealedHeader,
    SealedModel,
    check_header,
    check_name,
    key_check,
    parse_preamble,
    spans,
)
from leasehold.core.statements import sign
from leasehold.core.streaming import SEGMENT_BYTES, TAG_BYTES, plain_range
from leasehold.custodian.headers import lay_out, new_stream_header, write_header
from leasehold.errors import (
    BadSealedModel,
    BadSignature,
    LeaseholdError,
    WrongModel,
    WrongModelKey,
)

ROOT = SigningKey.load(b"r" * 32)
OTHER = SigningKey.load(b"o" * 32)
KEY = b"k" * 32
MODEL_ID = b"i" * 32


def stream_header(seed: int) -> bytes:
    """A header that differs by `seed`."""
    return new_stream_header(lambda size: bytes([seed]) * size)


def header(*contents: bytes, **changes: Any) -> SealedHeader:
    """A header for files named 0, 1, ... with these contents."""
    files = [(str(i), len(one), sha256(one), stream_header(i)) for i, one in enumerate(contents)]
    made = SealedHeader(
        format=1,
        name="tiny",
        version="1",
        engine="llama",
        licence="Apache-2.0",
        model_id=MODEL_ID,
        key_check=key_check(KEY, MODEL_ID),
        files=lay_out(files),
    )
    return msgspec.structs.replace(made, **changes)


def signed(
    payload: SealedHeader | bytes, root: SigningKey = ROOT, kind: str = sealed.KIND
) -> bytes:
    """Header bytes as they lie in the file."""
    data = payload if isinstance(payload, bytes) else to_json(payload)
    return to_json(sign(root, kind, data))


@dataclass
class Whole:
    """A whole sealed file in memory."""

    model: SealedModel
    data: bytes


def seal(*contents: bytes, key: bytes = KEY) -> Whole:
    """Seal these contents as `custodian.seal` does."""
    start, model = write_header(header(*contents), ROOT)
    opened, data = OpenModel(model, KEY), bytearray(start)
    for position, content in enumerate(contents):
        stream = opened.stream(position)
        data += stream.header
        for span in (one for one in spans(model) if one.file == position):
            for index in range(span.first, span.first + span.count):
                begin, end = plain_range(len(content), index)
                out = bytearray(end - begin + TAG_BYTES)
                stream.seal_segment(index, content[begin:end], memoryview(out))
                data += out
    return Whole(model, bytes(data))


def unseal(whole: Whole, data: bytes | None = None, key: bytes = KEY) -> list[bytes]:
    """All plaintext of a file of which perhaps only the header is as it was."""
    data = whole.data if data is None else data
    opened = OpenModel(whole.model, key)
    contents = [bytearray(file.size) for file in whole.model.header.files]
    scratch = memoryview(bytearray(SEGMENT_BYTES))
    for span in spans(whole.model):
        part = memoryview(data)[span.offset : span.offset + span.length]
        for offset, plain in opened.open_span(span, part, scratch):
            contents[span.file][offset : offset + len(plain)] = plain
    return [bytes(content) for content in contents]


def test_a_model_of_several_files_comes_back() -> None:
    contents = (b"", b"tokenizer", bytes(9 * SEGMENT_BYTES + 3), b"x" * (SEGMENT_BYTES - 56))
    whole = seal(*contents)
    assert unseal(whole) == list(contents)
    assert whole.model.sealed_bytes == len(whole.data)
    assert whole.model.plain_bytes == sum(map(len, contents))


def test_the_digest_is_the_hash_of_the_signed_payload() -> None:
    start, model = write_header(header(b"abc"), ROOT)
    assert model.digest == sha256(to_json(header(b"abc")))
    assert parse_preamble(start[:PREAMBLE_BYTES]) == len(start) - PREAMBLE_BYTES
    again = check_header(start[PREAMBLE_BYTES:], root_public=ROOT.public, digest=model.digest)
    assert again == model


def test_s3_a_model_signature_is_part_of_the_digest_and_may_be_missing() -> None:
    _, bare = write_header(header(b"abc"), ROOT)
    assert b"model_signature" not in to_json(header(b"abc"))
    _, model = write_header(header(b"abc", model_signature=b"a bundle"), ROOT)
    assert model.header.model_signature == b"a bundle"
    assert model.digest != bare.digest
    with pytest.raises(BadSealedModel, match="model_signature"):
        write_header(header(b"abc", model_signature=b"x" * (1 << 19) + b"x"), ROOT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        b"x" * PREAMBLE_BYTES,
        MAGIC + bytes(4),
        MAGIC + (HEADER_BYTES_MAX + 1).to_bytes(4, "big"),
        MAGIC + b"\xff" * 4,
        MAGIC.replace(b"1", b"2") + b"\0\0\0\1",
    ],
)
def test_s1_a_bad_beginning_is_refused_before_more_is_read(data: bytes) -> None:
    with pytest.raises(BadSealedModel):
        parse_preamble(data)


def test_s2_only_the_custodian_says_what_a_model_is() -> None:
    with pytest.raises(BadSignature):
        check_header(signed(header(b"a"), root=OTHER), root_public=ROOT.public)
    with pytest.raises(BadSignature, match="statement kind"):
        check_header(signed(header(b"a"), kind="leasehold-stop-order"), root_public=ROOT.public)


def test_s2_another_model_of_the_same_custodian_is_refused() -> None:
    data = signed(header(b"old"))
    with pytest.raises(WrongModel):
        check_header(data, root_public=ROOT.public, digest=b"d" * 32)


def test_s2_there_is_one_spelling() -> None:
    data = signed(header(b"a"))
    for other in (data.replace(b":", b": ", 1), data + b" ", b" " + data):
        with pytest.raises(BadSealedModel, match="spelling"):
            check_header(other, root_public=ROOT.public)
    with pytest.raises(BadSealedModel, match="header length"):
        check_header(data + b" " * HEADER_BYTES_MAX, root_public=ROOT.public)


def _refused(changed: SealedHeader, match: str) -> None:
    with pytest.raises(BadSealedModel, match=match):
        check_header(signed(changed), root_public=ROOT.public)


def _file(**changes: Any) -> tuple[SealedFile, ...]:
    return (msgspec.structs.replace(header(b"abc").files[0], **changes),)


def test_s3_even_a_signed_header_is_checked() -> None:
    two = header(b"abc", b"de").files
    replace = msgspec.structs.replace
    _refused(header(b"a", files=()), "files")
    _refused(header(b"a", name=""), "name")
    _refused(header(b"a", licence="x" * 4097), "licence")
    _refused(header(b"a", format=2), "format")
    _refused(header(b"a", model_id=b"short"), "model_id")
    _refused(header(b"a", key_check=b"k" * 33), "key_check")
    _refused(header(b"a", files=_file(size=-1)), "size")
    _refused(header(b"a", files=_file(size=1 << 60)), "size")
    _refused(header(b"a", files=_file(size=4)), "Expected: 60")
    _refused(header(b"a", files=_file(length=58)), "Expected: 59")
    _refused(header(b"a", files=_file(offset=1)), "offsets")
    _refused(header(b"a", files=_file(sha256=b"")), "sha256")
    _refused(header(b"a", files=_file(stream_header=b"\x28" * 39)), "stream_header")
    _refused(header(b"a", files=(two[1], two[0])), "offsets")
    _refused(header(b"a", files=(two[0], replace(two[1], name=two[0].name))), "only once")
    _refused(header(b"a", files=(two[0], replace(two[1], offset=0))), "offsets")
    _refused(
        header(
            b"a", files=lay_out([(str(i), 0, b"d" * 32, stream_header(0)) for i in range(1025)])
        ),
        "files",
    )


def test_s3_unknown_members_are_refused() -> None:
    payload = to_json(header(b"a")).replace(b'{"format":1', b'{"surprise":0,"format":1')
    with pytest.raises(BadSealedModel, match="surprise"):
        check_header(signed(payload), root_public=ROOT.public)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", "\x7f", "é" * 128, "a" * 256, "\ud800"],
)
def test_s3_bad_names(name: str) -> None:
    with pytest.raises(BadSealedModel, match="file name"):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["model.gguf", ".gitattributes", "...", "a b", "é" * 127, "a" * 255]
)
def test_s3_good_names(name: str) -> None:
    check_name(name)


def test_s5_a_stream_opens_only_at_its_place_and_under_its_header() -> None:
    whole = seal(b"same", b"same")
    first, second = whole.model.header.files
    body = whole.model.body
    one = whole.data[body : body + first.length]
    with pytest.raises(BadSealedModel, match="stream header"):
        unseal(whole, whole.data[:body] + one + one)
    start, other = write_header(header(b"same", b"same", version="2"), ROOT)
    with pytest.raises(BadSealedModel, match="segment 0"):
        unseal(Whole(other, start + whole.data[body:]))
    assert second.offset == first.length


def test_s6_a_wrong_key_is_refused_by_its_check_value() -> None:
    whole = seal(b"weights")
    for key in (b"x" * 32, b"", KEY[:31], KEY + b"k"):
        with pytest.raises(WrongModelKey):
            unseal(whole, key=key)


def test_s7_every_changed_byte_of_the_body_is_noticed() -> None:
    whole = seal(b"weights", b"")
    for position in range(whole.model.body, len(whole.data)):
        data = bytearray(whole.data)
        data[position] ^= 0x80
        with pytest.raises(BadSealedModel):
            unseal(whole, bytes(data))


def test_s7_a_short_file_is_noticed() -> None:
    whole = seal(b"weights")
    for size in range(whole.model.body, len(whole.data)):
        with pytest.raises(BadSealedModel, match="span"):
            unseal(whole, whole.data[:size])


def test_s7_no_plaintext_before_its_tag() -> None:
    content = bytes(2 * SEGMENT_BYTES)
    whole = seal(content)
    data = bytearray(whole.data)
    data[-1] ^= 1
    (span,) = spans(whole.model)
    scratch = memoryview(bytearray(SEGMENT_BYTES))
    part = memoryview(data)[span.offset : span.offset + span.length]
    got = OpenModel(whole.model, KEY).open_span(span, part, scratch)
    assert [next(got)[0], next(got)[0]] == [0, plain_range(len(content), 1)[0]]
    with pytest.raises(BadSealedModel, match="segment 2"):
        next(got)


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(BadSealedModel):
        parse_preamble(data)
    with pytest.raises(BadSealedModel):
        check_header(data, root_public=ROOT.public)


@settings(max_examples=300)
@given(st.data())
def test_a_signed_payload_of_any_bytes_is_refused_in_our_own_words(data: st.DataObject) -> None:
    payload = bytearray(to_json(header(b"abc", b"")))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        end = data.draw(st.integers(at, min(len(payload), at + 8)))
        payload[at:end] = data.draw(st.binary(max_size=6))
        if not payload:
            break
    try:
        model = check_header(signed(bytes(payload)), root_public=ROOT.public)
    except LeaseholdError as cause:
        assert isinstance(cause, BadSealedModel)  # noqa: PT017
    else:
        assert sum(span.length for span in spans(model)) == model.sealed_bytes - model.body
