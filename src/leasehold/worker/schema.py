"""Turns a JSON schema or a caller's rules into a grammar for llama.cpp, and makes sure that the engine took it.

Spec: docs/spec/worker.md, W-14. llama.cpp logs what its grammar engine cannot compile and then
answers without; so each new schema or grammar first has to force one random character out of it.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from leasehold.errors import BadRequest

HEADER: Final = "%llguidance {}\n"
_START: Final = re.compile(r"^start[ \t]*:", re.MULTILINE)
KNOWN_MAX: Final = 64  # schemas that need no probe any more
PROBE_TOKENS: Final = 4  # the character has three bytes, and a tokenizer may put a space before
_HANGUL_FIRST, _HANGUL_COUNT = 0xAC00, 11172  # one in so many passes by chance
_COMPACT: Final = {"x-guidance": {"whitespace_flexible": False}}  # else small models pad for ever

Probe = Callable[[str, int], str]
"""Takes a grammar and a number of tokens; gives the text that was made under it."""


class Schemas:
    """Checks schemas, once each."""

    def __init__(self, probe: Probe) -> None:
        """`probe` generates text from any prompt; it may be called by several threads."""
        self._probe = probe
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def grammar(self, schema: str) -> str:
        """The grammar for a schema as JSON text. Raises BadRequest for one that does not compile."""
        return f"{HEADER}start: %json {self.checked(schema)}"

    def checked(self, schema: str) -> str:
        """The schema on one line, known to be enforced. Raises BadRequest."""
        body = compact(schema)
        self._check(body, f"body: %json {body}", "json_schema")
        return body

    def own(self, text: str) -> str:
        """The grammar for a caller's rules in llguidance's Lark. Raises BadRequest."""
        self._check(text, own_rules(text), "grammar")
        return HEADER + text

    def _check(self, key: str, rules: str, about: str) -> None:
        """W-14: raise BadRequest unless a character put before these rules' `body` is enforced."""
        with self._lock:
            known = key in self._known
        if not known:
            sign = chr(_HANGUL_FIRST + int.from_bytes(os.urandom(8), "big") % _HANGUL_COUNT)
            text = self._probe(f'{HEADER}start: "{sign}" body\n{rules}', PROBE_TOKENS)
            if not text.startswith(sign):
                raise BadRequest(about=about, expected="one that can be enforced")
            with self._lock:
                self._known[key] = None
                while len(self._known) > KNOWN_MAX:
                    self._known.popitem(last=False)


def own_rules(text: str) -> str:
    """A caller's rules with `body` for `start`. Raises BadRequest unless there is one `start`."""
    renamed, count = _START.subn("body:", text)
    if count != 1 or "%llguidance" in text:
        raise BadRequest(
            about="grammar", expected="one rule `start:`, in Lark as llguidance reads it"
        )
    return renamed


def compact(schema: str) -> str:
    """The schema on one line: nothing in it can end the line that it is put in. Raises BadRequest."""
    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict):
            raise BadRequest(about="json_schema", expected="an object")
        return json.dumps(parsed | _COMPACT)
    except (ValueError, RecursionError) as cause:
        raise BadRequest(about="json_schema", got=cause) from cause
