"""Renders a chat by the model's own template, in jinja's sandbox. The one door to jinja.

Spec: docs/spec/engines.md, W-18. A template is the model's, and so hostile: it gets the messages and
nothing else, no clock, no loader of other templates. Names of what it may use: the conventions of the
Hugging Face hub's chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Never

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from leasehold.core import frames
from leasehold.errors import BadModel, BadRequest
from leasehold.worker.calls import turn

_FAILURES: Final = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
)


class Template:
    """A chat template, compiled."""

    def __init__(self, text: str, marks: Mapping[str, str]) -> None:
        """`marks` are special tokens by name, such as `bos_token`. Raises BadModel."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _refuse}
        try:
            self._template = environment.from_string(text)
        except (TemplateError, RecursionError) as cause:
            raise BadModel(about="chat_template", got=cause) from cause
        self._marks = dict(marks)

    def render(self, chat: frames.Chat) -> str:
        """The text to continue. Raises BadRequest where the template refuses the chat."""
        messages = [turn(one, _arguments) for one in chat.messages]
        tools = None if chat.tools is None else json.loads(chat.tools.described)
        try:
            text: str = self._template.render(
                self._marks | {"messages": messages, "tools": tools}, add_generation_prompt=True
            )
        except (*_FAILURES, RecursionError) as cause:
            raise BadRequest(about="messages", got=cause) from cause
        return text


def _arguments(text: str) -> object:
    """As templates expect them: an object."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> Never:
    raise TemplateError(message)


def _rehearse() -> None:
    """What jinja imports at its first literal and its first error has to be there before the sandbox."""
    chat = frames.Chat((frames.Message(frames.Role.USER, ""),))
    Template("{% for one in messages %}{{ '\\n' + one | tojson }}{% endfor %}", {}).render(chat)
    for bad in ("{% for %}", "{{ raise_exception('') }}", "{{ ().__class__ }}"):
        with suppress(BadModel, BadRequest):
            Template(bad, {}).render(chat)


_rehearse()
