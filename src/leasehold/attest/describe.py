"""What a piece of evidence says, field by field, for people: the form in which every platform explains itself.

Nothing here is verified: a description says what the bytes say, and `verify` whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Field(NamedTuple):
    """One field: the vendor's name for it, its value, and what that means for trust."""

    name: str
    value: str
    meaning: str


class Section(NamedTuple):
    """A structure within the evidence."""

    title: str
    fields: tuple[Field, ...]


class Description(NamedTuple):
    """A whole piece of evidence. `platform` is the name that `verify` knows it by, empty for none."""

    what: str
    platform: str
    sections: tuple[Section, ...]


def plain(text: str) -> str:
    """Other people's text without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


Recognise = Callable[[bytes], Description | None]
"""The description of bytes that are of this kind, by their content; None where they are not.

Raises BadEvidence where they start like it and are malformed.
"""
