"""What each token of a `tokenizer.json` stands for in bytes, and text made of them as they come.

Spec: docs/spec/worker.md, W-4. Two spellings are read: GPT-2's, where each byte is a letter, and
SentencePiece's, with `▁` for a space and `<0x0A>` for a byte. Refuses to know models.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from leasehold.core.frames import LONGEST_TOKEN_BYTES_MAX
from leasehold.errors import BadModel

_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS: Final = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_BYTE_OF: Final = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + at): byte for at, byte in enumerate(_OTHERS)
}
_SPACE: Final = "\u2581"
_HEX: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT_BYTES: Final = 3  # a byte that is not UTF-8 comes out as U+FFFD


def pieces(described: str, vocabulary: int) -> list[bytes]:
    """The bytes of each token by its id; those of special tokens are empty, they are no text.

    `described` is a tokenizer.json, `vocabulary` the number of ids that the model knows.
    Raises BadModel for a spelling that is neither.
    """
    try:
        parsed = json.loads(described)
        decoder = json.dumps(parsed["decoder"])
        words = parsed["model"]["vocab"]
        ids = words if isinstance(words, dict) else {w[0]: at for at, w in enumerate(words)}
        added = {int(one["id"]): one for one in parsed["added_tokens"]}
    except (ValueError, KeyError, TypeError, IndexError) as cause:
        raise BadModel(about="tokenizer.json", got=cause) from cause
    if '"ByteLevel"' in decoder:
        read = _of_letters
    elif '"ByteFallback"' in decoder or '"Metaspace"' in decoder:
        read = _of_sentence_piece
    else:
        raise BadModel(about="decoder", got=decoder[:80], expected="ByteLevel or ByteFallback")
    found = [b""] * vocabulary
    for word, at in ids.items():
        if 0 <= at < vocabulary:
            found[at] = read(word)
    for at, one in added.items():
        if 0 <= at < vocabulary:
            found[at] = b"" if one["special"] else one["content"].encode()
    return found


def longest(table: Sequence[bytes]) -> int:
    """The most bytes of text that one token can come out as, up to the limit of frames."""
    most = max(map(_as_text, table), default=0)
    return min(max(most, _REPLACEMENT_BYTES), LONGEST_TOKEN_BYTES_MAX)


def _as_text(piece: bytes) -> int:
    whole = len(piece.decode("utf-8", "ignore").encode())
    return whole + _REPLACEMENT_BYTES * (len(piece) - whole)


def _of_letters(word: str) -> bytes:
    try:
        return bytes(_BYTE_OF[letter] for letter in word)
    except KeyError:  # an added token that is not spelled in bytes
        return word.encode()


def _of_sentence_piece(word: str) -> bytes:
    if found := _HEX.fullmatch(word):
        return bytes([int(found[1], 16)])
    return word.replace(_SPACE, " ").encode()


class Text:
    """Bytes in, whole characters out; ends before the first of the `stops`, which it keeps to itself."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """`stops` are strings that are not empty."""
        self._stops = tuple(stops)
        self._decoder: Any = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.ended = False

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """What has become clear. With `last` nothing is held back any more."""
        self._held += self._decoder.decode(data, last)
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._give(min(found))
        return self._give(len(self._held) - (0 if last else self._unclear()))

    def _unclear(self) -> int:
        """Length of the longest end of the text that begins a stop."""
        most = max(map(len, self._stops), default=1) - 1
        for size in range(min(most, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _give(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
