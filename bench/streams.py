"""Streamed completions as clients see them: how many tokens, how soon the first and the last piece."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """`streams` completions of `prompt` at once, each of `tokens` tokens."""

    streams: int
    tokens: int
    prompt: str

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Stream:
    """One completion: tokens made, seconds to the first piece of text and to the last."""

    tokens: int
    first: float
    last: float

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was done."""

    seconds: float
    streams: list[Stream]

    @property
    def rate(self) -> float:
        """Tokens a second, of all streams together."""
        return sum(one.tokens for one in self.streams) / self.seconds


def take(
    job: Job,
    connect: Callable[[], http.client.HTTPConnection],
    key: str = "",
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Taken:
    """Do a job over OpenAI's interface, each stream on a connection of its own that is open before.

    `more` are fields of the requests that not everybody understands.
    """
    lines = [connect() for _ in range(job.streams)]
    for line in lines:
        line.connect()
    started = time.perf_counter()
    with ThreadPoolExecutor(job.streams) as pool:
        streams = list(pool.map(lambda line: _complete(line, job, key, more), lines))
    seconds = time.perf_counter() - started
    for line in lines:
        line.close()
    return Taken(seconds, streams)


def _complete(
    line: http.client.HTTPConnection, job: Job, key: str, more: Mapping[str, Any]
) -> Stream:
    body = {
        "model": "half",
        "prompt": job.prompt,
        "max_tokens": job.tokens,
        "temperature": 0.0,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    started, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    line.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = line.getresponse()
    if answer.status != http.client.OK:
        raise RuntimeError(answer.read().decode())
    for event in answer:
        if not event.startswith(b"data: {"):
            continue
        said = json.loads(event[6:])
        if any(choice.get("text") for choice in said["choices"]):
            last = time.perf_counter()
            first = first or last
        if usage := said.get("usage"):
            tokens = usage["completion_tokens"]
    return Stream(tokens, first - started, last - started)
