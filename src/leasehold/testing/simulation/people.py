"""Those who ask: steady, greedy and hostile consumers, each with its own seeded luck (T37 to T47).

Spec: docs/spec/simulation.md, Z-4. What each is served is counted in the moment in which it leaves.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from leasehold.core.crypto import sha256
from leasehold.core.tariff import Tariff, Work
from leasehold.testing.asgi import Answer, exchange
from leasehold.testing.box import MODEL, Box
from leasehold.testing.simulation.observer import CANARY, Observer

CHAT: Final = "/v1/chat/completions"
JUNK: Final[tuple[bytes, ...]] = (
    b"",
    b"{",
    b"[]",
    b'{"model": 7}',
    b'{"model": "echo", "messages": []}',
    b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
    b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "n": 9}',
    b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}',
    b"\xff\xfe",
    b'{"model": "echo", "messages": [{"role": "user", "content": "' + b"y " * 40_000 + b'"}]}',
)


@dataclass(slots=True)
class Person:
    """A consumer with its keys, of which operators may revoke some."""

    name: str
    keys: list[str]
    luck: random.Random
    habits: Sequence[str]
    asked: int = 0


@dataclass(slots=True)
class Crowd:
    """All consumers of a day; `boxes` tells which enclaves answer at the moment."""

    observer: Observer
    tariff: Tariff
    boxes: Callable[[], list[Box]]
    over: bool = False
    under_way: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def join(self, person: Person) -> None:
        """Let somebody begin to ask."""
        self.tasks.append(asyncio.create_task(self._live(person)))

    async def end(self) -> None:
        """Ask nothing more, and wait for what is under way."""
        self.over = True
        await asyncio.gather(*self.tasks)

    async def ask_once(self, person: Person, box: Box) -> None:
        """One small question."""
        await self._ask(person, box, person.keys[0], [CANARY, "word"], tokens=5)

    async def _live(self, person: Person) -> None:
        while not self.over:
            await asyncio.sleep(person.luck.expovariate(1.0))
            boxes = self.boxes()
            if not boxes or self.over:
                continue
            box, habit = person.luck.choice(boxes), person.luck.choice(person.habits)
            count = person.luck.randint(2, 6) if habit == "crowd" else 1
            await asyncio.gather(*(self._act(person, box, habit) for _ in range(count)))

    async def _act(self, person: Person, box: Box, habit: str) -> None:
        person.asked += 1
        self.under_way += 1
        luck = person.luck
        words = [CANARY, *("word" for _ in range(luck.randint(0, 12)))]
        key = luck.choice(person.keys)
        try:
            match habit:
                case "stranger":
                    await self._ask(person, box, "lh-" + "0" * 60 + str(luck.randint(0, 9)), words)
                case "junk":
                    await self._send(person, box, key, luck.choice(JUNK))
                case "extension":
                    await self._extend(box, key, luck.randint(1, 200))
                case "embed":
                    await self._embed(person, box, key, words)
                case "whole":
                    await self._ask(person, box, key, words, stream=False)
                case "hang-up":
                    with suppress(TimeoutError):
                        async with asyncio.timeout(luck.uniform(0.01, 1.5)):
                            await self._ask(person, box, key, words, tokens=200)
                case "greedy":
                    await self._ask(person, box, key, words, tokens=luck.randint(60, 400))
                case _:
                    await self._ask(person, box, key, words, tokens=luck.randint(1, 40))
        finally:
            self.under_way -= 1

    # Requests ------------------------------------------------------------------------------------

    async def _ask(
        self,
        person: Person,
        box: Box,
        key: str,
        words: list[str],
        *,
        tokens: int = 20,
        stream: bool = True,
    ) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": " ".join(words)}],
            "stream": stream,
            "max_tokens": tokens,
        }
        began, since = False, asyncio.get_running_loop().time()

        def watch(answer: Answer, part: bytes) -> None:
            nonlocal began
            count = _words(part, stream=stream) if answer.status == 200 else 0
            if count and not began:
                began = True
                work = Work(requests=1, input_tokens=len(words), output_tokens=count)
            else:
                work = Work(output_tokens=count)
            units = self.tariff.cost(work)
            self.observer.serve(box, sha256(key.encode()), person.name, units, since=since)

        await self._request(box, key, CHAT, body, watch)

    async def _send(self, person: Person, box: Box, key: str, body: bytes) -> None:
        def watch(answer: Answer, _part: bytes) -> None:
            if answer.status == 200:
                self.observer.fail(10, f"{person.name} was served for junk: {body[:80]!r}")

        await self._request(box, key, CHAT, body, watch)

    async def _embed(self, person: Person, box: Box, key: str, words: list[str]) -> None:
        since = asyncio.get_running_loop().time()

        def watch(answer: Answer, _part: bytes) -> None:
            if answer.status == 200:
                units = self.tariff.cost(Work(requests=1, input_tokens=len(words)))
                self.observer.serve(box, sha256(key.encode()), person.name, units, since=since)

        body = {"model": MODEL, "input": " ".join(words)}
        await self._request(box, key, "/v1/embeddings", body, watch)

    async def _extend(self, box: Box, key: str, units: int) -> None:
        body = {"units": units, "reason": "more, please"}
        await self._request(box, key, "/leasehold/extension", body, None)

    async def _request(
        self,
        box: Box,
        key: str,
        path: str,
        body: Any,
        watch: Callable[[Answer, bytes], None] | None,
    ) -> None:
        headers = {"authorization": f"Bearer {key}"}
        async with exchange(box.application, "POST", path, body, headers=headers, watch=watch) as (
            answer,
            task,
        ):
            await task
        self.observer.answered(answer.status, answer.code)


def _words(part: bytes, *, stream: bool) -> int:
    """How many words of an answer a piece of it carries."""
    if not stream:
        choices = json.loads(part).get("choices", ())
        return sum(len(one["message"]["content"].split()) for one in choices)
    count = 0
    for line in part.decode().split("\n\n"):
        data = line.removeprefix("data: ")
        if data and data != "[DONE]":
            choices = json.loads(data).get("choices", ())
            count += sum(len(one["delta"].get("content", "").split()) for one in choices)
    return count
