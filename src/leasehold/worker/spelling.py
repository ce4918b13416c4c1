"""Tokens to text and back, by a tokenizer.json; and text as it comes, character by character.

Spec: docs/spec/engines.md, W-18; docs/spec/worker.md, W-4. Refuses to know models.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, Final

os.putenv("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer

from leasehold.core.frames import LONGEST_TOKEN_BYTES_MAX, MemoryFile
from leasehold.errors import BadModel
from leasehold.worker.gguf import token_bytes
from leasehold.worker.shards import content

REPLACEMENT: Final = "\ufffd"
_REPLACEMENT_BYTES: Final = 3
HELD_TOKENS_MAX: Final = 8  # a character has four bytes, and a token at least one of them
PROMPT_TAIL: Final = 6  # of the prompt, that tell whether a space stands before the first word
_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS: Final = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES: Final = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + at): byte for at, byte in enumerate(_OTHERS)
}  # GPT-2's letters for bytes
_SPACE: Final = "\u2581"  # SentencePiece's
_HEX: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """One tokenizer. Too long is never cut, and nothing is padded."""

    def __init__(self, file: MemoryFile) -> None:
        """Read a tokenizer.json. Raises BadModel."""
        data = content(file)
        try:
            self._tokenizer: Any = Tokenizer.from_buffer(data)
        except Exception as cause:  # the package raises Exception itself, and no other
            raise BadModel(about=file.name, got=cause) from cause
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        decoder = json.dumps(json.loads(data).get("decoder"))
        self._in_bytes = '"ByteLevel"' in decoder
        self._in_pieces = '"ByteFallback"' in decoder or '"Metaspace"' in decoder
        tokens = self._tokenizer.get_vocab(with_added_tokens=True)
        if not tokens:
            raise BadModel(about=file.name, got="no tokens")
        self.size = max(tokens.values()) + 1
        longest = max(token_bytes(one.encode(), byte_level=self._in_bytes) for one in tokens)
        self.longest_token_bytes = min(max(longest, _REPLACEMENT_BYTES), LONGEST_TOKEN_BYTES_MAX)

    def tokens(self, text: str, *, bare: bool) -> list[int]:
        """Ids of a text; with `bare` nothing is put around it, as a template has done it."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=not bare).ids
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones left out."""
        said: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return said

    def token(self, spelled: str) -> int | None:
        """The id of a token that is spelled so."""
        found: int | None = self._tokenizer.token_to_id(spelled)
        return found

    def own_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, as far as its spelling tells."""
        spelled = self._tokenizer.id_to_token(token) or ""
        if self._in_bytes:
            if all(char in _BYTES for char in spelled):
                return bytes(_BYTES[char] for char in spelled)[:LONGEST_TOKEN_BYTES_MAX]
        elif found := _HEX.fullmatch(spelled):
            return bytes([int(found[1], 16)])
        return spelled.replace(_SPACE, " ").encode()[:LONGEST_TOKEN_BYTES_MAX]

    def table(self, size: int) -> tuple[list[bytes], list[int]] | None:
        """The bytes of the first `size` ids, and the special ones among them, which have none.

        None where tokens do not tell their bytes: the spelling is neither GPT-2's nor SentencePiece's.
        """
        if not (self._in_bytes or self._in_pieces):
            return None
        added = self._tokenizer.get_added_tokens_decoder()
        specials = sorted(at for at, one in added.items() if one.special and at < size)
        plain = {at: one.content.encode() for at, one in added.items() if not one.special}
        found = [plain.get(at, self.own_bytes(at)) for at in range(size)]
        for at in specials:
            found[at] = b""
        return found, specials


class Speech:
    """Text of tokens as they come. Gives whole characters; what never becomes one is U+FFFD."""

    def __init__(self, spelling: Spelling, prompt: Sequence[int]) -> None:
        """Go on after the prompt."""
        self._spelling = spelling
        self._ids = list(prompt[-PROMPT_TAIL:])
        self._told = len(self._ids)

    def take(self, token: int) -> str:
        """One more token; gives the text that is whole now."""
        self._ids.append(token)
        return self._rest(least=len(self._ids) - self._told > HELD_TOKENS_MAX)

    def finish(self) -> str:
        """What was held back."""
        return self._rest(least=True)

    def _rest(self, *, least: bool) -> str:
        before = self._spelling.text(self._ids[: self._told])
        after = self._spelling.text(self._ids)
        if after.endswith(REPLACEMENT) and not least:
            return ""
        self._ids = self._ids[self._told if after != before else -PROMPT_TAIL :]
        self._told = len(self._ids)
        return after[len(before) :]


class Cut:
    """Ends a text before the first of some strings, holding back what could begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """No stops: everything passes."""
        self._stops = stops
        self._held = ""
        self.found = False

    def take(self, text: str) -> str:
        """More text; gives what is clear of a stop."""
        self._held += text
        if places := [at for stop in self._stops if (at := self._held.find(stop)) >= 0]:
            self.found = True
            clear, self._held = self._held[: min(places)], ""
            return clear
        free = next((at for at in range(len(self._held)) if self._may_begin(at)), len(self._held))
        clear, self._held = self._held[:free], self._held[free:]
        return clear

    def finish(self) -> str:
        """What was held back, and began nothing."""
        clear, self._held = self._held, ""
        return clear

    def _may_begin(self, at: int) -> bool:
        rest = self._held[at:]
        return any(stop.startswith(rest) for stop in self._stops)
