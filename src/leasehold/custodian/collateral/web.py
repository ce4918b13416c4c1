"""One bounded request to a vendor's service: TLS, timeouts, retries, sizes, no redirects.

Refuses to know what is asked and what the answer means. An answer is nothing but bytes that somebody sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import httpx2

from leasehold.core.crypto import Entropy
from leasehold.core.units import KIB
from leasehold.errors import VendorUnreachable
from leasehold.net.tls import TlsContext

ATTEMPTS: Final = 4
TIMEOUT_SECONDS: Final = 10.0  # to connect, and of silence
TOTAL_SECONDS: Final = 30.0  # of one attempt: an answer that drips ends as well
PAUSE_SECONDS: Final = 0.5  # doubled at each attempt, and up to as much again at random
PAUSE_SECONDS_MAX: Final = 20.0  # also where the service asks for more
ANSWER_BYTES_MAX: Final = 512 * KIB  # CRLs and manifests are below 100 KiB
HEADER_BYTES_MAX: Final = 64 * KIB
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_AGENT: Final = {"User-Agent": "leasehold", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was sent. `headers` have lower-case names."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and for what."""

    attempts: int = ATTEMPTS
    timeout: float = TIMEOUT_SECONDS
    total: float = TOTAL_SECONDS
    answer_bytes: int = ANSWER_BYTES_MAX


class Web:
    """Asks, and asks again. Not for several threads at once."""

    __slots__ = ("_client", "_entropy", "_open", "_patience", "_sleep")

    def __init__(
        self,
        *,
        context: TlsContext,
        entropy: Entropy,
        proxy: str = "",
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is connected yet. No environment variable has any effect."""
        self._patience, self._entropy, self._sleep = patience or Patience(), entropy, sleep
        self._open = partial(
            httpx2.Client,
            verify=context,
            trust_env=False,
            follow_redirects=False,
            proxy=proxy or None,
            timeout=self._patience.timeout,
            headers=_AGENT,
        )
        self._client = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, url: str) -> Answer:
        """Raises VendorUnreachable."""
        return self._ask("GET", url, None, "")

    def post(self, url: str, body: bytes, kind: str) -> Answer:
        """Raises VendorUnreachable."""
        return self._ask("POST", url, body, kind)

    def _ask(self, method: str, url: str, body: bytes | None, kind: str) -> Answer:
        pause, problem = PAUSE_SECONDS, ""
        for left in range(self._patience.attempts, 0, -1):
            wait = pause
            try:
                with self._bounded():
                    answer, problem, asked = self._try(method, url, body, kind)
                if answer is not None:
                    return answer
                wait = max(pause, asked)
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as cause:
                problem = f"{type(cause).__name__}: {cause}"
            if left > 1:
                jitter = int.from_bytes(self._entropy(2), "big") / (1 << 16)
                self._sleep(min(wait * (1 + jitter), PAUSE_SECONDS_MAX))
                pause *= 2
        raise VendorUnreachable(
            about=url, got=problem, expected=f"an answer in {self._patience.attempts} attempts"
        )

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Cut the connection when an attempt's time is over.

        Headers may drip, too, and the library's timeouts are of silence only. Raises TimeoutError.
        """
        over, client = threading.Event(), self._client

        def cut() -> None:
            over.set()
            client.close()

        timer = threading.Timer(self._patience.total, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as cause:
            if not over.is_set():
                raise
            raise TimeoutError(f"no end after {self._patience.total} seconds") from cause
        finally:
            timer.cancel()
            if over.is_set():
                self._client = self._open()

    def _try(
        self, method: str, url: str, body: bytes | None, kind: str
    ) -> tuple[Answer | None, str, float]:
        """An answer; or why to ask again, and after how many seconds the service says."""
        headers = {"Content-Type": kind} if kind else {}
        with self._client.stream(method, url, content=body, headers=headers) as response:
            if response.status_code in _AGAIN:
                return None, f"status {response.status_code}", _seconds(response.headers)
            if response.status_code != 200:
                got = f"status {response.status_code}"
                raise VendorUnreachable(about=url, got=got, expected="status 200")
            data = bytearray()
            for part in response.iter_raw():
                data += part
                if len(data) > self._patience.answer_bytes:
                    limit = f"<= {self._patience.answer_bytes} bytes"
                    raise VendorUnreachable(about=url, got="a longer answer", expected=limit)
            found = {name.lower(): value for name, value in response.headers.items()}
            if sum(len(name) + len(value) for name, value in found.items()) > HEADER_BYTES_MAX:
                raise VendorUnreachable(about=url, got="longer headers", expected=HEADER_BYTES_MAX)
            if found.get("content-encoding", "identity") != "identity":
                got = found["content-encoding"]
                raise VendorUnreachable(about=url, got=got, expected="no content encoding")
        return Answer(url, found, bytes(data)), "", 0.0


def _seconds(headers: httpx2.Headers) -> float:
    """RFC 9110, 10.2.3: `Retry-After` in seconds; a date is passed over."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0
