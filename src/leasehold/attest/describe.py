"""What a piece of evidence says, field by field, for people: the form in which every platform explains itself.

Nothing here is verified: a description says what the bytes say, and `verify` whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from leasehold.core.units import Instant


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


def utc(moment: Instant) -> str:
    """A time for people: to the second, in UTC."""
    try:
        return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return f"{moment} ms after 1970"
