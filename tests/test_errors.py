"""The error tree: codes are unique and documented, and the reference page says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from tools import errors_doc

from leasehold.cli import exit_code
from leasehold.errors import (
    LeaseholdError,
    Malformed,
    Refused,
    Unavailable,
    Unproven,
    WrongBinding,
    codes,
)

KINDS = (Malformed, Unproven, Refused, Unavailable)


def _below(root: type[LeaseholdError]) -> Iterator[type[LeaseholdError]]:
    for child in root.__subclasses__():
        if child.__module__ == LeaseholdError.__module__:
            yield child
            yield from _below(child)


CONCRETE = [error for error in _below(LeaseholdError) if error not in KINDS]


def test_the_page_is_what_the_tree_says() -> None:
    assert errors_doc.PAGE.read_text("utf-8") == errors_doc.render(), "run tools/errors_doc.py"


def test_every_code_stands_on_the_page_once() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \|", errors_doc.PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {error.code for error in (*KINDS, *CONCRETE)}


def test_no_two_errors_share_a_code() -> None:
    found = [error.code for error in _below(LeaseholdError)]
    assert len(found) == len(set(found))
    assert set(found) <= set(codes())


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.code)
def test_every_error_says_what_happened_and_what_to_do(error: type[LeaseholdError]) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", error.code)
    assert error.__doc__ is not None
    assert errors_doc.meaning(error).endswith(".")
    assert error.do.endswith((".", "!"))
    assert HTTPStatus(error.status).value >= HTTPStatus.BAD_REQUEST
    assert sum(issubclass(error, kind) for kind in KINDS) == 1, "one kind of blame"


def test_exit_status_follows_blame() -> None:
    for kind, status, _ in errors_doc.BLAME:
        assert exit_code(kind()) == status
    assert exit_code(WrongBinding()) == 3
    assert exit_code(LeaseholdError()) == 1


def test_a_message_shows_what_was_compared() -> None:
    error = WrongBinding(about="nonce", got=b"\x01\x02", expected="32 bytes")
    assert error.message == (
        "The evidence was made for other keys, another nonce, another purpose or another custodian. "
        "About: nonce. Got: 0102. Expected: 32 bytes. "
        "Ask for fresh evidence on this very connection; old or relayed evidence never passes."
    )


def test_a_message_cannot_be_made_to_write_on_the_terminal() -> None:
    error = WrongBinding(got="\x1b[2J" + "x" * 1000)
    assert "\x1b" not in error.message
    assert "(1004 characters)" in error.message
