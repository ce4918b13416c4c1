"""A client that calls an ASGI application in process: for consumers of the simulated world."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Application = Callable[[Mapping[str, Any], Any, Any], Awaitable[None]]


@dataclass(slots=True)
class Answer:
    """An HTTP answer as it comes in: `parts` are the pieces of the body in order."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    done: bool = False

    @property
    def body(self) -> bytes:
        """All of the body that has come."""
        return b"".join(self.parts)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of the server-sent events that have come, `[DONE]` left out."""
        lines = self.body.decode().split("\n\n")
        datas = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(data) for data in datas if data != "[DONE]"]

    @property
    def code(self) -> str | None:
        """The code of a refusal, also of one in the middle of a stream."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            errors = [event["error"]["code"] for event in self.events() if "error" in event]
            return errors[-1] if errors else None
        return self.json()["error"]["code"] if self.status >= 400 else None


@asynccontextmanager
async def exchange(
    application: Application,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    watch: Callable[[Answer, bytes], None] | None = None,
) -> AsyncIterator[tuple[Answer, asyncio.Task[None]]]:
    """Start a request; the task ends with the answer. Leaving the block hangs up.

    `watch` sees every piece of the body in the moment in which it leaves the application.
    """
    target, _, query = path.partition("?")
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http",
        "method": method,
        "path": target,
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": data, "more_body": False})
    answer = Answer()

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answer.parts.append(message.get("body", b""))
            answer.done = not message.get("more_body", False)
            if watch is not None:
                watch(answer, answer.parts[-1])
        await asyncio.sleep(0)  # a socket lets others run too

    async def run() -> None:
        await application(scope, inbox.get, send)

    task = asyncio.create_task(run())
    try:
        yield answer, task
    finally:
        inbox.put_nowait({"type": "http.disconnect"})
        with suppress(asyncio.CancelledError):
            await task


async def request(
    application: Application,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One whole request."""
    async with exchange(application, method, path, body, headers=headers) as (answer, task):
        await task
    return answer
