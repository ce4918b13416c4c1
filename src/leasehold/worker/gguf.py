"""Reads from a GGUF file's header what its engine does not tell: the longest token, the context.

Layout: the GGUF specification, version 2 and 3. The file is hostile: every length is checked
against the file's end before it is used.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Final

from leasehold.core.frames import CONTEXT_TOKENS_MAX
from leasehold.errors import BadModel

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_KEYS_MAX: Final = 4096  # published models have about 40
_STRING, _ARRAY = 8, 9
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_REPLACEMENT_BYTES: Final = 3  # a byte that is not UTF-8 comes out as U+FFFD
_SPACE: Final = "\u2581"  # what sentencepiece writes for a space
_TOKENS: Final = "tokenizer.ggml.tokens"
_TOKENIZER: Final = "tokenizer.ggml.model"
_TEMPLATE: Final = "tokenizer.chat_template"

Value = int | bytes | list[bytes] | None


@dataclass(frozen=True, slots=True)
class Header:
    """What there is to know before loading; `context_tokens` is what the model was trained for.

    `template` renders a chat; it is empty where the model has none.
    """

    context_tokens: int
    longest_token_bytes: int
    template: str


def read(descriptor: int) -> Header:
    """Parse the header of the file. Raises BadModel."""
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as data:
            return _header(_Reader(data).pairs())
    except (struct.error, OSError, ValueError) as cause:
        raise BadModel(about="GGUF header", got=cause) from cause


class _Reader:
    """A cursor over the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def pairs(self) -> dict[str, Value]:
        """The keys with their values, where these are integers, strings or arrays of strings."""
        if self._take(4) != _MAGIC:
            raise BadModel(about="GGUF", expected="a file that begins with GGUF")
        version, _, keys = self._number("I"), self._number("Q"), self._number("Q")
        if version not in _VERSIONS or keys > _KEYS_MAX:
            raise BadModel(about="GGUF version and keys", got=(version, keys))
        found: dict[str, Value] = {}
        for _ in range(keys):
            name = self._string().decode("utf-8", "replace")
            found[name] = self._value(self._number("I"))
        return found

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind in _INTEGERS:
            return self._number(_INTEGERS[kind])
        if kind in _SIZES:
            self._take(_SIZES[kind])
            return None
        if kind != _ARRAY:
            raise BadModel(about="GGUF value", got=kind)
        inner, length = self._number("I"), self._number("Q")
        if inner == _STRING:
            if length > len(self._data) // 8:  # each has eight bytes of length at least
                raise BadModel(about="GGUF array", got=length)
            return [self._string() for _ in range(length)]
        if inner not in _SIZES:
            raise BadModel(about="GGUF array", got=inner)
        self._skip(_SIZES[inner] * length)
        return None

    def _string(self) -> bytes:
        return self._take(self._number("Q"))

    def _number(self, code: str) -> int:
        packed = struct.Struct("<" + code)
        value: int = packed.unpack(self._take(packed.size))[0]
        return value

    def _take(self, size: int) -> bytes:
        start = self._at
        self._skip(size)
        return self._data[start : self._at]

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise BadModel(about="GGUF", got="a header that goes past the end of the file")
        self._at += size


def _header(pairs: dict[str, Value]) -> Header:
    name = pairs.get("general.architecture")
    architecture = name.decode("utf-8", "replace") if isinstance(name, bytes) else ""
    context = pairs.get(f"{architecture}.context_length")
    tokens = pairs.get(_TOKENS)
    if not isinstance(context, int) or not 0 < context <= CONTEXT_TOKENS_MAX:
        raise BadModel(about="context_length", got=context)
    if not isinstance(tokens, list) or not tokens:
        raise BadModel(about=_TOKENS, expected="a list of tokens")
    is_bytes = pairs.get(_TOKENIZER) == b"gpt2"
    longest = max(token_bytes(token, byte_level=is_bytes) for token in tokens)
    template = pairs.get(_TEMPLATE)
    text = template.decode("utf-8", "replace") if isinstance(template, bytes) else ""
    return Header(context, max(longest, _REPLACEMENT_BYTES), text)


# GPT-2 writes a printable byte as itself and the others, in order, as U+0100 and what follows.
_UNPRINTABLE: Final = (*range(0x21), *range(0x7F, 0xA1), 0xAD)
_LETTERS: Final = frozenset(range(0x144)) - frozenset(_UNPRINTABLE)


def token_bytes(token: bytes, *, byte_level: bool) -> int:
    """The most bytes of text that a token, as GGUF spells it, can come out as.

    A byte-level spelling is decoded; what is not whole UTF-8 then counts three bytes a byte.
    """
    spelled = token.decode("utf-8", "replace")
    if spelled.isascii():
        return len(spelled)
    if not byte_level or any(ord(char) not in _LETTERS for char in spelled):
        return len(spelled.replace(_SPACE, " ").encode())
    raw = bytes(_byte_of(ord(char)) for char in spelled)
    whole = len(raw.decode("utf-8", "ignore").encode())
    return whole + _REPLACEMENT_BYTES * (len(raw) - whole)


def _byte_of(letter: int) -> int:
    return letter if letter < 0x100 else _UNPRINTABLE[letter - 0x100]
