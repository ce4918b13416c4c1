"""Calls of functions: read out of a model's text as it comes, and forced by a grammar.

Spec: docs/spec/worker.md, W-16. The form is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`,
as the templates of Hermes, Qwen and many others teach it. llama.cpp's own parser is not used: it ends
the whole request where the text does not fit its grammar, and does not enforce `required`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from leasehold.core.frames import CALLS_MAX, CallPart, Chat, Message, Prob, Prompt, Reason, Tools
from leasehold.errors import BadRequest
from leasehold.worker.engine import Emit

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HALF: Final = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")  # an escape without its character
HEAD_CHARS_MAX: Final = 4096  # of a name and what stands before the arguments
_HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.){1,64}")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_STEP: Final = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


class Calls:
    """Takes text piece by piece and gives what of it is text, and the pieces of its calls."""

    def __init__(self, *, several: bool) -> None:
        """Without `several`, `ended` is true after the first call."""
        self._several = several
        self._held = ""
        self._take: Callable[[], bool] = self._text
        self._gap = False  # between two calls, where space says nothing
        self._depth, self._quoted, self._seen = 0, False, 0
        self._words: list[str] = []
        self._parts: list[CallPart] = []

    @property
    def made(self) -> int:
        """Calls whose name has come."""
        return self._seen

    @property
    def ended(self) -> bool:
        """One call is whole, and one is enough."""
        return not self._several and self._seen > 0 and self._take == self._tail

    @property
    def holds(self) -> bool:
        """Is there text of which it is not known yet what it is?"""
        return self._take == self._head or (bool(self._held) and self._take != self._tail)

    def feed(self, text: str) -> tuple[str, tuple[CallPart, ...]]:
        """What has become clear: text, and pieces of calls."""
        self._held += text
        while self._take():
            pass
        return self._given()

    def finish(self) -> tuple[str, tuple[CallPart, ...]]:
        """What was held back, at the end."""
        self._words.append(self._held if self._take == self._text else "")
        if self._take == self._head:
            self._words.append(OPEN + self._held)
        if self._take == self._arguments:
            self._give(len(self._held))
        self._held = ""
        return self._given()

    def _given(self) -> tuple[str, tuple[CallPart, ...]]:
        text, parts = "".join(self._words), tuple(self._parts)
        self._words, self._parts = [], []
        return text, parts

    def _text(self) -> bool:
        if self._gap:
            self._held = self._held.lstrip()
            self._gap = not self._held
        before, opened, rest = self._held.partition(OPEN)
        if opened and self._seen < CALLS_MAX:
            self._words.append(before)
            self._held, self._take = rest, self._head
            return True
        free = next(n for n in range(len(OPEN), -1, -1) if self._held.endswith(OPEN[:n]))
        cut = len(self._held) - (free if free < len(OPEN) else 0)
        self._words.append(self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _head(self) -> bool:
        if found := _HEAD.match(self._held):
            name = _unquoted(found[1])
            self._parts.append(CallPart(self._seen, name, ""))
            self._seen += 1
            self._depth, self._quoted = 0, False
            self._held, self._take = self._held[found.end() :], self._arguments
            return True
        if CLOSE in self._held or len(self._held) > HEAD_CHARS_MAX:  # it was no call
            self._words.append(OPEN)
            self._take = self._text
            return True
        return False

    def _arguments(self) -> bool:
        """Up to the bracket that closes the first one; a backslash at the end waits for its character."""
        end, at = len(self._held), 0
        if _HALF.search(self._held):
            end -= 1
        for step in _STEP.finditer(self._held, 0, end):
            at = step.end()
            sign = step[0]
            if sign == '"':
                self._quoted = not self._quoted
            elif not self._quoted and sign in "{[":
                self._depth += 1
            elif not self._quoted and sign in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._give(at)
                    self._take = self._tail
                    return True
        self._give(end)
        return False

    def _give(self, end: int) -> None:
        if end:
            self._parts.append(CallPart(self._seen - 1, "", self._held[:end]))
        self._held = self._held[end:]

    def _tail(self) -> bool:
        """After the arguments nothing matters but the end mark."""
        _, closed, rest = self._held.partition(CLOSE)
        if closed:
            self._held, self._take, self._gap = rest, self._text, True
            return True
        self._held = self._held[-len(CLOSE) :]
        return False


class Outlet:
    """Emits text with the tokens that it stands for, its calls read out of it."""

    def __init__(self, emit: Emit, tools: Tools | None = None) -> None:
        """Without `tools` all of it is text."""
        self._emit = emit
        self._reader = None if tools is None else Calls(several=tools.several)
        self._text = ""  # what is clear of it, and has not been emitted
        self._parts: tuple[CallPart, ...] = ()
        self._rows: tuple[tuple[Prob, ...], ...] = ()
        self.owed = 0  # of the tokens told, those that have not been emitted

    @property
    def ended(self) -> bool:
        """One call was wanted, and is whole."""
        return self._reader is not None and self._reader.ended

    @property
    def reason(self) -> Reason:
        """Why an answer ended that stopped by itself."""
        made = self._reader is not None and self._reader.made
        return Reason.TOOL_CALLS if made else Reason.STOP

    def tell(
        self, text: str, count: int, probs: tuple[tuple[Prob, ...], ...] = (), *, last: bool
    ) -> bool:
        """Emit what is clear; while a call may be beginning, only ask. Answers whether to go on."""
        self.owed, self._rows = self.owed + count, self._rows + probs
        if (reader := self._reader) is not None:
            self._take(*reader.feed(text))
            if last:
                self._take(*reader.finish())
            elif reader.holds:
                return self._emit("", 0)
        else:
            self._text = text
        told = (self._text, self.owed, self._parts, self._rows)
        self._text, self.owed, self._parts, self._rows = "", 0, (), ()
        return self._emit(*told) if told[2] or told[3] else self._emit(*told[:2])

    def _take(self, text: str, parts: tuple[CallPart, ...]) -> None:
        self._text, self._parts = self._text + text, self._parts + parts


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:  # an escape that JSON does not know
        return text[1:-1]


def grammar(tools: Tools, checked: Callable[[str], str]) -> str:
    """The grammar of one call of a forced function; `checked` gives a schema that can be enforced.

    Raises BadRequest.
    """
    described = {tool["function"]["name"]: tool["function"] for tool in json.loads(tools.described)}
    rules: list[str] = []
    for at, name in enumerate(tools.forced):
        schema = {"type": "object"} | described[name].get("parameters", {})
        if schema["type"] != "object":
            raise BadRequest(about=f"parameters of {name}", expected="type: object")
        head = json.dumps(f'{{"name": "{name}", "arguments": ')
        rules += [
            f'call{at}: {head} with{at} "}}"',
            f"with{at}: %json {checked(json.dumps(schema))}",
        ]
    choice = " | ".join(f"call{at}" for at in range(len(tools.forced)))
    start = f'start: "{OPEN}\\n" ({choice}) "\\n{CLOSE}"'
    return "\n".join(["%llguidance {}", start, *rules])


def wanted(prompt: Prompt) -> Tools | None:
    """The functions that an answer to this may call."""
    return prompt.tools if isinstance(prompt, Chat) else None


def known_to(template: str) -> bool:
    """Does a chat template describe functions, and calls in our form?"""
    return "tools" in template and OPEN in template


def turn(message: Message, arguments: Callable[[str], object] = str) -> dict[str, Any]:
    """A message in OpenAI's shape; `arguments` makes of a call's JSON text what is wanted."""
    said: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments(call.arguments)},
            }
            for call in message.calls
        ]
    if message.answers:
        said["tool_call_id"] = message.answers
    return said
