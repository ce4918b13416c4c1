"""OpenAI's own clients on a pinned transport. The only module that imports `openai`, which is optional."""

from __future__ import annotations

import httpx2

from leasehold.consumer.calls import TIMEOUT
from leasehold.consumer.pinned import PinnedTransport
from leasehold.consumer.pinned_async import AsyncPinnedTransport
from leasehold.errors import LeaseholdError, MissingExtra

try:
    from openai import AsyncOpenAI, OpenAI, OpenAIError
except ImportError as missing:
    raise MissingExtra(about="pip install openai") from missing


class EnclaveRefused(OpenAIError):
    """The enclave was not verified, so nothing was sent. `cause` is the reason, with its code.

    An OpenAIError, because the client passes its own errors on and hides all others behind retries.
    """

    def __init__(self, cause: LeaseholdError) -> None:
        super().__init__(f"[{cause.code}] {cause.message}")
        self.cause = cause


def open_openai(transport: PinnedTransport, *, api_key: str | None) -> OpenAI:
    """A client that reaches the enclaves of this transport only."""
    http_client = httpx2.Client(transport=_Translating(transport), timeout=TIMEOUT, trust_env=False)
    return OpenAI(
        api_key=api_key or "none",
        base_url=f"{transport.address.url}/v1",
        http_client=http_client,
    )


def open_async_openai(transport: AsyncPinnedTransport, *, api_key: str | None) -> AsyncOpenAI:
    """The same for event loops."""
    http_client = httpx2.AsyncClient(
        transport=_AsyncTranslating(transport), timeout=TIMEOUT, trust_env=False
    )
    return AsyncOpenAI(
        api_key=api_key or "none",
        base_url=f"{transport.address.url}/v1",
        http_client=http_client,
    )


class _Translating(httpx2.BaseTransport):
    def __init__(self, inner: PinnedTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self._inner.handle_request(request)
        except LeaseholdError as cause:
            raise EnclaveRefused(cause) from cause

    def close(self) -> None:
        self._inner.close()


class _AsyncTranslating(httpx2.AsyncBaseTransport):
    def __init__(self, inner: AsyncPinnedTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._inner.handle_async_request(request)
        except LeaseholdError as cause:
            raise EnclaveRefused(cause) from cause

    async def aclose(self) -> None:
        await self._inner.aclose()
