"""What a consumer says to an enclave: requests as values, shared by the clients that send them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx2

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    BUDGET_PATH,
    EXTENSION_PATH,
    EXTENSION_WAIT_SECONDS_MAX,
    REASON_CHARS_MAX,
    RECEIPT_HEADER,
    RECEIPTS_PATH,
    BudgetAnswer,
    ExtensionAnswer,
    ExtensionRequest,
    ReceiptAnswer,
)
from leasehold.core.units import Units
from leasehold.errors import BadMessage, BadRequest, EnclaveUnreachable, FileTrouble

T = TypeVar("T")
Messages = Sequence[dict[str, Any]]

CHAT_PATH: Final = "/v1/chat/completions"
EMBEDDINGS_PATH: Final = "/v1/embeddings"
# Reading waits for the queue and for the whole prompt's prefill; nothing is sent twice on a timeout.
TIMEOUT: Final = httpx2.Timeout(connect=10.0, read=600.0, write=60.0, pool=60.0)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request that answers with a record."""

    method: str
    path: str
    answer: type[T]
    body: bytes | None = None

    def read(self, body: bytes) -> T:
        """The record in an answer's body. Raises BadMessage."""
        return from_json(body, self.answer)


def budget() -> Call[BudgetAnswer]:
    """How does my budget stand?"""
    return Call("GET", BUDGET_PATH, BudgetAnswer)


def ask_extension(units: int, reason: str) -> Call[ExtensionAnswer]:
    """I ask for more. Raises BadRequest."""
    if units < 1:
        raise BadRequest(about="units", got=units, expected="at least 1")
    if not reason.strip() or len(reason) > REASON_CHARS_MAX:
        raise BadRequest(about="reason", got=reason, expected=f"1 to {REASON_CHARS_MAX} characters")
    body = to_json(ExtensionRequest(Units(units), reason))
    return Call("POST", EXTENSION_PATH, ExtensionAnswer, body)


def await_extension(seconds: int) -> Call[ExtensionAnswer]:
    """What became of my request? The answer comes when it is decided, or after this long."""
    return Call("GET", f"{EXTENSION_PATH}?wait={seconds}", ExtensionAnswer)


def polls(seconds: int) -> list[int]:
    """How long each of the long polls lasts that together wait for `seconds`."""
    whole, rest = divmod(max(0, seconds), EXTENSION_WAIT_SECONDS_MAX)
    return [EXTENSION_WAIT_SECONDS_MAX] * whole + ([rest] if rest else [])


def receipt(name: str) -> Call[ReceiptAnswer]:
    """The receipt of that id, and its salt."""
    return Call("GET", f"{RECEIPTS_PATH}/{quote(name, safe='')}", ReceiptAnswer)


def chat(
    prompt: str | Messages,
    *,
    model: str,
    stream: bool,
    system: str | None = None,
    options: dict[str, Any],
) -> bytes:
    """The body of a chat completion; `options` are further OpenAI parameters, None meaning absent."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {"model": model, "messages": messages}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return to_json(body | {name: value for name, value in options.items() if value is not None})


def embeddings(texts: Sequence[str], *, model: str) -> bytes:
    """The body of an embeddings request."""
    return to_json({"model": model, "input": list(texts), "encoding_format": "float"})


def receipt_id(answer: httpx2.Response) -> str:
    """The id of an answer's receipt. Raises BadMessage: an answer without a receipt is no answer."""
    name = answer.headers.get(RECEIPT_HEADER)
    if not name:
        raise BadMessage(about=RECEIPT_HEADER, got="no such header", expected="the receipt's id")
    return name


def headers(api_key: str | None) -> dict[str, str]:
    """The headers of every request. Bodies travel as they are, because receipts are over their bytes."""
    fixed = {"Accept-Encoding": "identity"}
    return fixed if api_key is None else fixed | {"Authorization": f"Bearer {api_key}"}


@contextmanager
def reachable(where: str) -> Iterator[None]:
    """Call a connection that fails by its name in the error tree."""
    try:
        yield
    except httpx2.TransportError as cause:
        raise EnclaveUnreachable(about=where, got=str(cause) or type(cause).__name__) from cause


def read_manifest(manifest: bytes | str | Path) -> bytes:
    """The signed manifest itself, or the contents of the file at that path. Raises FileTrouble."""
    if isinstance(manifest, bytes):
        return manifest
    try:
        return Path(manifest).read_bytes()
    except OSError as cause:
        raise FileTrouble(about=manifest, got=cause.strerror) from cause
