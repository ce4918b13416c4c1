"""A witness somewhere else, asked over HTTP: the client's side of C2SP tlog-witness.

Spec: docs/spec/witness.md, J-9. Nothing that it says is believed: its cosignature is checked by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import httpx2

from leasehold.custodian.witnessing import PATH, SIZE_TYPE, write_post
from leasehold.errors import Unproven, WitnessUnreachable
from leasehold.net.tls import public_context

TIMEOUT_SECONDS: Final = 20.0
ANSWER_CHARS_MAX: Final = 10_000
_DIGITS_MAX: Final = 18


class Remote:
    """An open connection to the witness at a URL; `ca` (PEM) is who issued its certificate."""

    def __init__(self, url: str, *, ca: str | None = None) -> None:
        self._url = url.rstrip("/")
        context = public_context(ca) if url.startswith("https://") else True
        self._client = httpx2.Client(verify=context, timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def add(self, old: int, proof: Sequence[bytes], note: str) -> str | int:
        """The cosignature's line, not checked; or how much it has seen, where that is not `old`.

        Raises WitnessUnreachable, and Unproven where the witness refuses to cosign.
        """
        try:
            answer = self._client.post(self._url + PATH, content=write_post(old, proof, note))
        except (httpx2.HTTPError, httpx2.InvalidURL) as cause:
            raise WitnessUnreachable(about=self._url, got=cause) from cause
        text = answer.text
        if len(text) > ANSWER_CHARS_MAX:
            raise WitnessUnreachable(about=self._url, got=f"{len(text)} characters")
        if answer.status_code == 200:
            return text
        size = text.removesuffix("\n")
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if answer.status_code == 409 and kind == SIZE_TYPE:
            if not size.isascii() or not size.isdecimal() or len(size) > _DIGITS_MAX:
                raise WitnessUnreachable(about=self._url, got=size, expected="a size")
            return int(size)
        if answer.status_code >= 500:
            raise WitnessUnreachable(about=self._url, got=answer.status_code)
        raise Unproven(
            about=f"witness {self._url}",
            got=f"status {answer.status_code}: {size}",
            expected="a cosignature",
        )
