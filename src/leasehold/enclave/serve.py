"""What the enclave answers to consumers: a raw ASGI application, no framework in the trusted base.

OpenAI's endpoints and KServe's; Leasehold's own are in `own.py`. Every refusal has a code; no
exception text reaches a caller. Spec: docs/spec/consumer.md, docs/spec/inference.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, Final, Literal

from leasehold.core.encoding import to_json
from leasehold.core.frames import Capability, Chat, Token
from leasehold.enclave import answers, kserve, openai
from leasehold.enclave.boot import Enclave
from leasehold.enclave.exchange import (
    Exchange,
    Gone,
    Handler,
    Receive,
    Send,
    receipt_header,
)
from leasehold.enclave.lent import Lent
from leasehold.enclave.own import RECEIPTS, Own
from leasehold.enclave.refusals import Refusing
from leasehold.enclave.work import Run
from leasehold.errors import UnknownEndpoint, UnknownModel, UnsupportedParameter

EVENTS: Final = (b"content-type", b"text/event-stream")
MODEL: Final = "/v2/models/{name}"
BINARY: Final = (b"content-type", b"application/octet-stream")


class Application:
    """The ASGI application of one enclave."""

    def __init__(self, enclave: Enclave) -> None:
        self._enclave = enclave
        self.routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): partial(self._generation, openai.parse_chat),
            ("POST", "/v1/completions"): partial(self._generation, openai.parse_text),
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v2"): self._server,
            ("GET", "/v2/health/live"): self._live,
            ("GET", "/v2/health/ready"): self._ready,
            ("GET", MODEL): self._model,
            ("GET", f"{MODEL}/ready"): self._model_ready,
            ("POST", f"{MODEL}/infer"): self._infer,
            **Own(enclave).routes(),
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong, with a code of `leasehold.errors`."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, marks=self._marks())
        with suppress(Gone):
            async with Refusing(exchange, self._enclave.machine.log):
                await self._find(exchange)(exchange)

    def _marks(self) -> list[tuple[bytes, bytes]]:
        """What every answer says: SIMULATED where it is so, and when a stop begins that was announced."""
        marks, coming = [(b"cache-control", b"no-store")], self._enclave.link.coming
        if self._enclave.machine.attester.simulated:
            marks.append((b"leasehold-platform", b"SIMULATED"))
        if coming is not None:  # RFC 8594
            marks.append((b"sunset", formatdate(coming.begins // 1000, usegmt=True).encode()))
        return marks

    def _find(self, exchange: Exchange) -> Handler:
        method, path = exchange.scope["method"], exchange.scope["path"]
        match path.split("/"):
            case ["", "leasehold", "receipts", name]:
                template, exchange.variable = RECEIPTS, name
            case ["", "v2", "models", name, *rest]:
                rest = rest[2:] if rest[:2] == ["versions", kserve.VERSION] else rest
                template, exchange.variable = "/".join((MODEL, *rest)), name
            case _:
                template = path
        found = self.routes.get((method, template))
        if found is None:
            raise UnknownEndpoint(about=f"{method} {path}")
        return found

    # OpenAI --------------------------------------------------------------------------------------

    async def _generation(
        self, parse: Callable[[bytes], openai.Generation], exchange: Exchange
    ) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(self._enclave.settings.body_bytes_max)
        lent = self._enclave.lent()
        wanted = parse(body)
        _check_model(lent, wanted.model)
        _check_can(self._enclave.machine.host.loaded.capabilities, lent, wanted)
        work = self._enclave.works.generating(wanted, lent=lent, key_hash=key_hash, request=body)
        async with exchange, work as (run, pieces), self._refusing(exchange, run):
            frame = self._frame(wanted.kind, run)
            if wanted.stream:
                await _stream(exchange, wanted, frame, run, pieces)
            else:
                made = [token async for some in pieces for token in some]
                answer = frame.whole(made, run.reason, run.counts, run.code)
                await exchange.answer(200, answer)

    def _refusing(self, exchange: Exchange, run: Run) -> Refusing:
        """Where units are charged the refusal is in their receipt."""
        return Refusing(exchange, self._enclave.machine.log, run)

    def _frame(self, kind: Literal["chat", "text"], run: Run) -> answers.Frame:
        created = self._enclave.machine.clock.now() // 1000
        name = ("chatcmpl-" if kind == "chat" else "cmpl-") + run.receipt_id.removeprefix(
            "receipt-"
        )
        return answers.Frame(kind, name, created, run.lent.terms.model.name)

    async def _embeddings(self, exchange: Exchange) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(self._enclave.settings.body_bytes_max)
        lent = self._enclave.lent()
        wanted = openai.parse_embedding(body)
        _check_model(lent, wanted.model)
        if Capability.EMBED not in self._enclave.machine.host.loaded.capabilities:
            raise UnsupportedParameter(about="embeddings", expected=Capability.EMBED)
        work = self._enclave.works.embedding(wanted, lent=lent, key_hash=key_hash, request=body)
        async with exchange, work as (run, embed), self._refusing(exchange, run):
            found = await embed()
            answer = answers.embeddings_body(
                wanted, found.vectors, found.dims, run.counts.input_tokens, lent.terms.model.name
            )
            await exchange.answer(200, answer)

    async def _models(self, exchange: Exchange) -> None:
        exchange.key_hash()
        model = self._enclave.lent().terms.model
        body = answers.models_body(model.name, self._enclave.machine.clock.now(), model.digest)
        await exchange.answer(200, body)

    # KServe v2 -----------------------------------------------------------------------------------

    # I-1: the protocol's paths, of which these three ask for no key.

    async def _server(self, exchange: Exchange) -> None:
        row = {"name": "leasehold", "version": kserve.VERSION, "extensions": kserve.EXTENSIONS}
        await exchange.answer(200, to_json(row))

    async def _live(self, exchange: Exchange) -> None:
        await exchange.answer(200, to_json({"live": True}))

    async def _ready(self, exchange: Exchange) -> None:
        ready = self._enclave.ready
        await exchange.answer(200 if ready else 503, to_json({"ready": ready}))

    async def _model(self, exchange: Exchange) -> None:
        exchange.key_hash()
        _check_model(self._enclave.lent(), exchange.variable)
        loaded, engine = self._enclave.machine.host.loaded, self._enclave.settings.engine
        await exchange.answer(200, kserve.metadata(exchange.variable, engine, loaded))

    async def _model_ready(self, exchange: Exchange) -> None:
        exchange.key_hash()
        _check_model(self._enclave.lent(), exchange.variable)
        await exchange.answer(200, to_json({"name": exchange.variable, "ready": True}))

    async def _infer(self, exchange: Exchange) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(self._enclave.settings.body_bytes_max)
        lent = self._enclave.lent()
        _check_model(lent, exchange.variable)
        if (coding := exchange.header(b"content-encoding")) is not None:
            raise UnsupportedParameter(about="content-encoding", got=coding)
        loaded = self._enclave.machine.host.loaded
        wanted = kserve.parse(body, exchange.header(kserve.JSON_BYTES), loaded)
        work = self._enclave.works.inferring(wanted, lent=lent, key_hash=key_hash, request=body)
        async with exchange, work as (run, infer), self._refusing(exchange, run):
            found = await infer()
            content, json_bytes = kserve.answer(wanted, found, exchange.variable)
            if json_bytes is None:
                await exchange.answer(200, content)
            else:
                length = (kserve.JSON_BYTES, str(json_bytes).encode())
                await exchange.answer(200, content, length, kind=BINARY)


async def _stream(
    exchange: Exchange,
    wanted: openai.Generation,
    frame: answers.Frame,
    run: Run,
    pieces: AsyncGenerator[list[Token], None],
) -> None:
    """Server-sent events; nothing is sent before the first piece, so a refusal still has its status."""
    async for some in pieces:
        events = b"".join([frame.piece(token) for token in some])
        if not exchange.started:
            await exchange.start(200, EVENTS, receipt_header(run))
            if wanted.kind == "chat":
                events = frame.opening() + events
        await exchange.write(events)
    if not exchange.started:
        await exchange.start(200, EVENTS, receipt_header(run))
    usage = frame.usage(run.counts) if wanted.include_usage else b""
    await exchange.finish(frame.closing(run.reason, run.code) + usage + answers.DONE)


def _check_model(lent: Lent, name: str) -> None:
    if name != lent.terms.model.name:
        raise UnknownModel(got=name, expected=lent.terms.model.name)


def _check_can(able: Sequence[Capability], lent: Lent, wanted: openai.Generation) -> None:
    """G-1, G-4: raise UnsupportedParameter for what this model, or this loan, does not do."""
    sampling, chat = wanted.sampling, isinstance(wanted.prompt, Chat)
    tools = wanted.prompt.tools if isinstance(wanted.prompt, Chat) else None
    needs = (
        (chat, "messages", Capability.CHAT),
        (not chat, "prompt", Capability.TEXT),
        (sampling.json_schema, "response_format", Capability.SCHEMA),
        (sampling.grammar, "grammar", Capability.SCHEMA),
        (tools, "tools", Capability.TOOLS),
        (sampling.probs, "logprobs", Capability.PROBS),
    )
    for wants, name, need in needs:
        if wants and need not in able:
            raise UnsupportedParameter(about=name, got=", ".join(able), expected=need)
    if sampling.probs and not lent.terms.tariff.logprob:
        raise UnsupportedParameter(about="logprobs", expected="a loan whose tariff prices them")
