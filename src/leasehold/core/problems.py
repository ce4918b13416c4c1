"""How a refusal looks to a consumer: OpenAI's error object, with our code in it."""

from __future__ import annotations

import msgspec


class OpenAiProblem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inside of an OpenAI error; `code` is a code of `leasehold.errors`."""

    message: str
    type: str
    code: str
    param: str | None = None


class OpenAiError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How every HTTP refusal of an enclave looks to a consumer."""

    error: OpenAiProblem
