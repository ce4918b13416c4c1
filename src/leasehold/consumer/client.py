"""The SDK: an enclave that was verified, as an object to ask.

Everything goes through one `PinnedTransport`, so no request leaves before a verdict that is less than
ten minutes old. Spec: docs/spec/consumer.md. Refuses to know the environment; keys are arguments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

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
from leasehold.consumer.bootstrap import Bootstrap
from leasehold.consumer.clock import SystemClock
from leasehold.consumer.pinned import Dial, PinnedTransport, dial_tls
from leasehold.consumer.problems import read_problem
from leasehold.consumer.receipt import CheckedReceipt, check_receipt_answer
from leasehold.consumer.verify import EvidenceTransport, Expectations, VerifiedEnclave
from leasehold.core.crypto import Entropy
from leasehold.core.messages import BudgetAnswer, ExtensionAnswer
from leasehold.core.units import Clock
from leasehold.errors import BadRequest

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")


class AnswerStream:
    """An answer as it is made: iterate for pieces of text; `answer` is the whole when that is over.

    Closing it early ends the work in the enclave; what was made until then is charged.
    """

    def __init__(self, response: httpx2.Response, reader: StreamReader) -> None:
        self._response, self._reader = response, reader

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises EnclaveUnreachable where the stream has not come to its end."""
        return self._reader.finish()

    def __iter__(self) -> Iterator[str]:
        with self, calls.reachable(str(self._response.url)):
            for data in self._response.iter_raw():
                yield from self._reader.feed(data)
        self._reader.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ask for no more."""
        self._response.close()


class Enclave:
    """A verified enclave. Build it with `connect`; close it, or use it in a `with` block."""

    def __init__(self, transport: PinnedTransport, *, api_key: str | None) -> None:
        self._transport, self._api_key = transport, api_key
        self._client = self.http_client()

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        manifest: bytes | str | Path,
        api_key: str | None = None,
        custodian: bytes | None = None,
        clock: Clock | None = None,
        entropy: Entropy = os.urandom,
        evidence: EvidenceTransport | None = None,
        dial: Dial = dial_tls,
    ) -> Enclave:
        """Verify whoever answers at `address` against the manifest (its bytes, or a path to it).

        `custodian` is the custodian's 32-byte root key, if you know it from a safer source than the
        manifest. `evidence` and `dial` are the two wires, for worlds inside one process.
        Raises Unproven or Malformed with the reason, EnclaveUnreachable, FileTrouble.
        """
        where = parse_address(address)
        transport = PinnedTransport(
            Expectations(calls.read_manifest(manifest), custodian),
            where,
            evidence=evidence or Bootstrap(where),
            clock=clock or SystemClock(),
            entropy=entropy,
            dial=dial,
        )
        transport.verified()
        return cls(transport, api_key=api_key)

    @property
    def verified(self) -> VerifiedEnclave:
        """The newest verdict that is still in force; verifies again where there is none."""
        return self._transport.verified()[-1]

    @overload
    def ask(
        self,
        prompt: str | calls.Messages,
        *,
        stream: Literal[False] = False,
        system: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        prompt: str | calls.Messages,
        *,
        stream: Literal[True],
        system: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> AnswerStream: ...

    def ask(
        self,
        prompt: str | calls.Messages,
        *,
        stream: bool = False,
        system: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> Answer | AnswerStream:
        """Have the model answer a question or a conversation. `options` are OpenAI parameters.

        Raises BudgetExhausted, LoanStopped, TooBusy and whatever else the enclave refuses with.
        """
        body = calls.chat(
            prompt,
            model=self.verified.model,
            stream=stream,
            system=system,
            options={"max_tokens": max_tokens, **options},
        )
        if not stream:
            return read_answer(self._exchange(calls.CHAT_PATH, body))
        response = self._send("POST", calls.CHAT_PATH, body)
        return AnswerStream(response, StreamReader(calls.receipt_id(response), body))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text."""
        if isinstance(texts, str) or not texts:
            raise BadRequest(about="texts", expected="a list of at least one text")
        body = calls.embeddings(texts, model=self.verified.model)
        return read_vectors(self._exchange(calls.EMBEDDINGS_PATH, body), count=len(texts))

    def budget(self) -> BudgetAnswer:
        """How the budget behind this key stands."""
        return self._do(calls.budget())

    def request_more(self, units: int, reason: str, *, wait: int = 0) -> ExtensionAnswer:
        """Ask the custodian for more units, and wait up to `wait` seconds for the decision."""
        state = self._do(calls.ask_extension(units, reason))
        for seconds in calls.polls(wait):
            if state.status != "open":
                break
            state = self._do(calls.await_extension(seconds))
        return state

    def receipt(self, of: Answer | Vectors | Exchange | str) -> CheckedReceipt:
        """The checked receipt of an answer, or of an id alone: then its content cannot be compared.

        Raises WrongReceipt or BadSignature where the receipt is not for exactly this.
        """
        exchange = of if isinstance(of, Exchange | str) else of.exchange
        name = exchange if isinstance(exchange, str) else exchange.receipt
        answer = self._do(calls.receipt(name))
        return check_receipt_answer(answer, exchange, self._transport.verified())

    def http_client(self) -> httpx2.Client:
        """An httpx2 client that reaches this enclave only; paths are relative to its root."""
        return httpx2.Client(
            transport=self._transport,
            base_url=self._transport.address.url,
            headers=calls.headers(self._api_key),
            timeout=calls.TIMEOUT,
            trust_env=False,
        )

    def openai(self) -> OpenAI:
        """OpenAI's own client, bound to this enclave. Raises MissingExtra where it is not installed."""
        from leasehold.consumer.openai_client import open_openai

        return open_openai(self._transport, api_key=self._api_key)

    def close(self) -> None:
        """Close every connection, of clients made here too."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, call: calls.Call[T]) -> T:
        return call.read(self._read(self._send(call.method, call.path, call.body)))

    def _exchange(self, path: str, body: bytes) -> Exchange:
        response = self._send("POST", path, body)
        return Exchange(calls.receipt_id(response), body, self._read(response))

    def _send(self, method: str, path: str, body: bytes | None) -> httpx2.Response:
        """The open response to a request that was not refused."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        request = self._client.build_request(method, path, content=body, headers=kind)
        with calls.reachable(str(self._transport.address)):
            response = self._client.send(request, stream=True)
        if response.is_success:
            return response
        raise read_problem(response.status_code, self._read(response))

    def _read(self, response: httpx2.Response) -> bytes:
        with calls.reachable(str(self._transport.address)), closing(response):
            return response.read()
