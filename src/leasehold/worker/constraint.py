"""Holds output to a JSON schema, a grammar or a call, by llguidance.

Spec: docs/spec/worker.md, W-14 and W-16. Refuses to know engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt

from leasehold.core.frames import Tools
from leasehold.errors import BadRequest
from leasehold.worker import calls
from leasehold.worker.schema import HEADER, compact, own_rules


class Tokens:
    """The tokenizer, as llguidance wants it."""

    def __init__(
        self,
        table: Sequence[bytes],
        specials: Sequence[int],
        end: int,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        """`table` has the bytes of each token, `end` ends an answer."""
        self.tokens = list(table)
        for at in specials:
            self.tokens[at] = f"<|special {at}|>".encode()
        self.eos_token_id, self.bos_token_id, self.special_token_ids = end, None, list(specials)
        self._encode = encode

    def __call__(self, text: bytes) -> list[int]:
        """Token ids of a text."""
        return list(self._encode(text.decode("utf-8", "ignore")))


class Grammars:
    """Compiles constraints for one tokenizer."""

    def __init__(self, tokens: Tokens) -> None:
        """Kept for the life of the model."""
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(tokens))

    def start(self, schema: str, grammar: str, tools: Tools | None = None) -> Constraint | None:
        """What holds one answer to a call that is forced, a schema or a grammar; None without these.

        Raises BadRequest.
        """
        if tools is not None and tools.forced:
            return self._checked("tools", calls.grammar(tools, compact))
        if schema:
            return self._checked("json_schema", f"{HEADER}start: %json {compact(schema)}")
        if grammar:
            own_rules(grammar)
            return self._checked("grammar", HEADER + grammar)
        return None

    def _checked(self, about: str, rules: str) -> Constraint:
        matcher = llguidance.LLMatcher(self._tokenizer, rules, log_level=0)
        if matcher.is_error():
            raise BadRequest(about=about, got=matcher.get_error()[:200])
        return Constraint(matcher, self._tokenizer.vocab_size)


class Constraint:
    """One answer's state in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)

    @property
    def ended(self) -> bool:
        """Can nothing more come?"""
        return bool(self._matcher.is_stopped())

    def allowed(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        """bool[vocabulary]: which tokens may come next."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        found = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little").astype(np.bool_)
        if len(found) < vocabulary:
            found = np.concatenate([found, np.zeros(vocabulary - len(found), np.bool_)])
        return found[:vocabulary]

    def take(self, token: int) -> None:
        """This token has come."""
        self._matcher.consume_token(token)
