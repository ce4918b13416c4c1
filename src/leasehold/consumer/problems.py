"""An enclave's refusal as it came over HTTP, turned back into the error that it was."""

from __future__ import annotations

from typing import Final

from leasehold.core.encoding import from_json
from leasehold.core.problems import OpenAiError
from leasehold.errors import BadMessage, LeaseholdError, Unavailable, from_wire

_TOLD_CHARS_MAX: Final = 2000


def read_problem(status: int, body: bytes) -> LeaseholdError:
    """The error in a verified enclave's answer, in its words. What cannot be read is an error too."""
    try:
        problem = from_json(body, OpenAiError).error
    except BadMessage:
        return Unavailable(about=f"HTTP status {status}", got=body[:80].decode("utf-8", "replace"))
    return from_wire(problem.code, problem.message[:_TOLD_CHARS_MAX])


def read_strangers_problem(status: int, body: bytes, *, address: object) -> LeaseholdError:
    """The error of the same code in our own words: a stranger does not get to talk to the user."""
    claimed = read_problem(status, body)
    return type(claimed)(about=f"{address}, which is not verified", got=f"HTTP status {status}")
