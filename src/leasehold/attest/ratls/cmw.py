"""Conceptual message wrappers in certificates: what is wrapped, in either serialisation.

Source: RATS Conceptual Messages Wrapper (draft-ietf-rats-msg-wrap), sections 3 and 4: a record, a CBOR
tag or a collection, in CBOR (OCTET STRING) or JSON (UTF8String). Refuses to know what the wrapped
messages mean.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from leasehold.attest.cbor import Tagged, parse_cbor
from leasehold.attest.der import Element, Tag
from leasehold.errors import BadEvidence

MESSAGES_MAX: Final = 32
DEPTH_MAX: Final = 4
JSON_BYTES_MAX: Final = 64 * 1024
EVIDENCE: Final = 4  # the indicator's bit for evidence (section 3.1)
_COLLECTION_TYPE: Final = "__cmwc_t"
_CBOR_IN_JSON: Final = "#cmw-c2j-tunnel"
_JSON_IN_CBOR: Final = "#cmw-j2c-tunnel"
_FIRST_TAG: Final = 1668546817  # RFC 9277, appendix B: the tag of CoAP content format 0
_FORMATS_MAX: Final = 65025
_INDICATOR_MAX: Final = 0xFFFF
_BASE64URL: Final = re.compile(r"\A[A-Za-z0-9_-]*\Z")


class Wrapped(NamedTuple):
    """One message. `label` is its path in collections, `form` a media type, content format or tag.

    `indicator` says what kind of message it is, 0 where that was left out.
    """

    label: str
    form: str
    value: bytes
    indicator: int

    @property
    def is_evidence(self) -> bool:
        """Whether it is evidence, or may be because it does not say."""
        return not self.indicator or bool(self.indicator & EVIDENCE)


def _refuse(about: str, got: object, expected: str) -> BadEvidence:
    return BadEvidence(about=f"CMW {about}", got=got, expected=expected)


def read_cmw(extension: Element) -> tuple[Wrapped, ...]:
    """Q-6: every wrapped message of an id-pe-cmw extension. Raises BadEvidence."""
    if extension.tag == Tag.OCTET_STRING:
        value: object = parse_cbor(extension.content)
    elif extension.tag == Tag.UTF8_STRING:
        value = _json(extension.content)
    else:
        raise _refuse("extension", hex(extension.tag), "an OCTET STRING or a UTF8String")
    found = []
    for message in _walk(value, "", DEPTH_MAX):
        found.append(message)
        if len(found) > MESSAGES_MAX:
            raise _refuse("collection", f"> {MESSAGES_MAX} messages", f"<= {MESSAGES_MAX}")
    return tuple(found)


def _json(data: bytes) -> object:
    if len(data) > JSON_BYTES_MAX:
        raise _refuse("JSON", len(data), f"<= {JSON_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as cause:
        raise _refuse("JSON", str(cause), "a record or a collection") from cause


def _walk(value: object, label: str, depth: int) -> Iterator[Wrapped]:
    if depth == 0:
        raise _refuse("nesting", label, f"<= {DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != _COLLECTION_TYPE:
                yield from _walk(item, f"{label}/{key}", depth - 1)
    elif isinstance(value, Tagged):
        yield Wrapped(label, _tag_form(value.tag), _octets(value.value), 0)
    elif isinstance(value, tuple | list):
        yield from _record(tuple(value), label, depth)
    else:
        raise _refuse("message", type(value).__name__, "a record, a tag or a collection")


def _record(parts: tuple[object, ...], label: str, depth: int) -> Iterator[Wrapped]:
    if not 2 <= len(parts) <= 3:
        raise _refuse("record", f"{len(parts)} parts", "a type, a value, perhaps an indicator")
    form, value, indicator = parts[0], _octets(parts[1]), parts[2] if len(parts) == 3 else 0
    if isinstance(form, bool) or not isinstance(form, str | int):
        raise _refuse("type", type(form).__name__, "a media type or a content format")
    if isinstance(indicator, bool) or not isinstance(indicator, int):
        raise _refuse("indicator", type(indicator).__name__, "a number")
    if not 0 <= indicator <= _INDICATOR_MAX:
        raise _refuse("indicator", indicator, f"0 to {_INDICATOR_MAX}")
    if form == _CBOR_IN_JSON:
        yield from _walk(parse_cbor(value), label, depth - 1)
    elif form == _JSON_IN_CBOR:
        yield from _walk(_json(value), label, depth - 1)
    else:
        named = form if isinstance(form, str) else f"content format {form}"
        yield Wrapped(label, named, value, indicator)


def _tag_form(tag: int) -> str:
    """RFC 9277: a range of tags stands for the CoAP content formats."""
    number = tag - _FIRST_TAG
    return f"content format {number}" if 0 <= number < _FORMATS_MAX else f"CBOR tag {tag}"


def _octets(value: object) -> bytes:
    """A value: bytes in CBOR, base64url text in JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and _BASE64URL.match(value) and len(value) % 4 != 1:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    raise _refuse("value", type(value).__name__, "bytes, or base64url in JSON")
