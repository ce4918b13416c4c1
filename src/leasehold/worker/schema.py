"""Turns a JSON schema into a grammar for llama.cpp, and makes sure that the engine took it.

Spec: docs/spec/worker.md, W-14. llama.cpp logs a schema that its grammar engine cannot compile and
then answers without any; so each new schema first has to force one random character out of it.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from leasehold.errors import BadRequest

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
        body = _compact(schema)
        with self._lock:
            known = body in self._known
        if not known:
            sign = chr(_HANGUL_FIRST + secrets.randbelow(_HANGUL_COUNT))
            text = self._probe(
                f'%llguidance {{}}\nstart: "{sign}" body\nbody: %json {body}', PROBE_TOKENS
            )
            if not text.startswith(sign):
                raise BadRequest(about="json_schema", expected="a schema that can be enforced")
            with self._lock:
                self._known[body] = None
                while len(self._known) > KNOWN_MAX:
                    self._known.popitem(last=False)
        return f"%llguidance {{}}\nstart: %json {body}"


def _compact(schema: str) -> str:
    """The schema on one line: nothing in it can end the line that it is put in."""
    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict):
            raise BadRequest(about="json_schema", expected="an object")
        return json.dumps(parsed | _COMPACT)
    except (ValueError, RecursionError) as cause:
        raise BadRequest(about="json_schema", got=cause) from cause
