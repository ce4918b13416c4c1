"""The SDK for event loops: `AsyncEnclave` is `client.Enclave`, awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2

from leasehold.consumer import calls
from leasehold.consumer.address import parse_address
from leasehold.consumer.answers import (
    Answer,
    Exchange,
    StreamReader,
    Vectors,
    read_answer,
    read_vectors,
)
from leasehold.consumer.bootstrap import AsyncBootstrap
from leasehold.consumer.clock import SystemClock
from leasehold.consumer.pinned_async import AsyncDial, AsyncPinnedTransport, dial_tls_async
from leasehold.consumer.problems import read_problem
from leasehold.consumer.receipt import CheckedReceipt, check_receipt_answer
from leasehold.consumer.verify import AsyncEvidenceTransport, Expectations, VerifiedEnclave
from leasehold.core.crypto import Entropy
from leasehold.core.messages import BudgetAnswer, ExtensionAnswer
from leasehold.core.units import Clock
from leasehold.errors import BadRequest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")


class AsyncAnswerStream:
    """An answer as it is made: `async for` gives pieces of text; `answer` is the whole afterwards."""

    def __init__(self, response: httpx2.Response, reader: StreamReader) -> None:
        self._response, self._reader = response, reader

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises EnclaveUnreachable where the stream has not come to its end."""
        return self._reader.finish()

    async def __aiter__(self) -> AsyncIterator[str]:
        with calls.reachable(str(self._response.url)):
            try:
                async for data in self._response.aiter_raw():
                    for piece in self._reader.feed(data):
                        yield piece
            finally:
                await self.aclose()
        self._reader.finish()

    async def aclose(self) -> None:
        """Ask for no more; what was made until then is charged."""
        await self._response.aclose()


class AsyncEnclave:
    """A verified enclave. Build it with `connect`; close it, or use it in an `async with` block."""

    def __init__(self, transport: AsyncPinnedTransport, *, api_key: str | None) -> None:
        self._transport, self._api_key = transport, api_key
        self._client = self.http_client()

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        manifest: bytes | str | Path,
        api_key: str | None = None,
        custodian: bytes | None = None,
        clock: Clock | None = None,
        entropy: Entropy = os.urandom,
        evidence: AsyncEvidenceTransport | None = None,
        dial: AsyncDial = dial_tls_async,
    ) -> AsyncEnclave:
        """Like `Enclave.connect`; `evidence` and `dial` are the two wires."""
        where = parse_address(address)
        transport = AsyncPinnedTransport(
            Expectations(calls.read_manifest(manifest), custodian),
            where,
            evidence=evidence or AsyncBootstrap(where),
            clock=clock or SystemClock(),
            entropy=entropy,
            dial=dial,
        )
        await transport.verified()
        return cls(transport, api_key=api_key)

    async def verified(self) -> VerifiedEnclave:
        """The newest verdict that is still in force; verifies again where there is none."""
        return (await self._transport.verified())[-1]

    async def ask(
        self,
        prompt: str | calls.Messages,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> Answer:
        """Have the model answer a question or a conversation. `options` are OpenAI parameters."""
        options |= {"max_tokens": max_tokens}
        body = await self._chat(prompt, stream=False, system=system, options=options)
        return read_answer(await self._exchange(calls.CHAT_PATH, body))

    async def stream(
        self,
        prompt: str | calls.Messages,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> AsyncAnswerStream:
        """Like `ask`, token by token."""
        options |= {"max_tokens": max_tokens}
        body = await self._chat(prompt, stream=True, system=system, options=options)
        response = await self._send("POST", calls.CHAT_PATH, body)
        return AsyncAnswerStream(response, StreamReader(calls.receipt_id(response), body))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text."""
        if isinstance(texts, str) or not texts:
            raise BadRequest(about="texts", expected="a list of at least one text")
        body = calls.embeddings(texts, model=(await self.verified()).model)
        return read_vectors(await self._exchange(calls.EMBEDDINGS_PATH, body), count=len(texts))

    async def budget(self) -> BudgetAnswer:
        """How the budget behind this key stands."""
        return await self._do(calls.budget())

    async def request_more(self, units: int, reason: str, *, wait: int = 0) -> ExtensionAnswer:
        """Ask the custodian for more units, and wait up to `wait` seconds for the decision."""
        state = await self._do(calls.ask_extension(units, reason))
        for seconds in calls.polls(wait):
            if state.status != "open":
                break
            state = await self._do(calls.await_extension(seconds))
        return state

    async def receipt(self, of: Answer | Vectors | Exchange | str) -> CheckedReceipt:
        """The checked receipt of an answer, or of an id alone: then its content cannot be compared."""
        exchange = of if isinstance(of, Exchange | str) else of.exchange
        name = exchange if isinstance(exchange, str) else exchange.receipt
        answer = await self._do(calls.receipt(name))
        return check_receipt_answer(answer, exchange, await self._transport.verified())

    def http_client(self) -> httpx2.AsyncClient:
        """An httpx2 client that reaches this enclave only; paths are relative to its root."""
        return httpx2.AsyncClient(
            transport=self._transport,
            base_url=self._transport.address.url,
            headers=calls.headers(self._api_key),
            timeout=calls.TIMEOUT,
            trust_env=False,
        )

    def openai(self) -> AsyncOpenAI:
        """OpenAI's own client, bound to this enclave. Raises MissingExtra where it is not installed."""
        from leasehold.consumer.openai_client import open_async_openai

        return open_async_openai(self._transport, api_key=self._api_key)

    async def aclose(self) -> None:
        """Close every connection, of clients made here too."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _chat(
        self,
        prompt: str | calls.Messages,
        *,
        stream: bool,
        system: str | None,
        options: dict[str, Any],
    ) -> bytes:
        model = (await self.verified()).model
        return calls.chat(prompt, model=model, stream=stream, system=system, options=options)

    async def _do(self, call: calls.Call[T]) -> T:
        response = await self._send(call.method, call.path, call.body)
        return call.read(await self._read(response))

    async def _exchange(self, path: str, body: bytes) -> Exchange:
        response = await self._send("POST", path, body)
        return Exchange(calls.receipt_id(response), body, await self._read(response))

    async def _send(self, method: str, path: str, body: bytes | None) -> httpx2.Response:
        """The open response to a request that was not refused."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        request = self._client.build_request(method, path, content=body, headers=kind)
        with calls.reachable(str(self._transport.address)):
            response = await self._client.send(request, stream=True)
        if response.is_success:
            return response
        raise read_problem(response.status_code, await self._read(response))

    async def _read(self, response: httpx2.Response) -> bytes:
        with calls.reachable(str(self._transport.address)):
            try:
                return await response.aread()
            finally:
                await response.aclose()
