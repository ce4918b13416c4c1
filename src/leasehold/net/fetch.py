"""Byte ranges of one URL over HTTP/1.1, straight into the caller's memory, with retry and resume.

The standard library's client on blocking sockets: as many connections as there are callers, kept open.
Spec: docs/spec/sealed-model.md, S-15. Refuses to know what the bytes are; whoever reads them must be able
to tell whether they are right.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Event
from typing import Final
from urllib.parse import urlsplit

from leasehold.core.units import KIB
from leasehold.errors import BadSetting, ModelUnreachable
from leasehold.net.tls import TlsContext

ATTEMPTS: Final = 5  # in a row without one new byte
TIMEOUT_SECONDS: Final = 30.0  # of silence
READ_SECONDS_MAX: Final = 300.0  # for one range of 8 MiB: 28 KB a second, or a week for 16 GB
_PIECE_BYTES: Final = 256 * KIB
PATIENT_ATTEMPTS: Final = 24  # where there is nobody else to ask: five minutes
_PAUSE_SECONDS: Final = 0.25  # doubled at each failure: 4 seconds before giving up
_PAUSE_SECONDS_MAX: Final = 15.0
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class RangeReader:
    """Reads one resource by ranges; safe to use from several threads.

    `context` is for https; http needs none, because sealed bytes are safe on any wire.
    """

    def __init__(
        self,
        url: str,
        *,
        context: TlsContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], object] | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is connected yet. Raises BadSetting where the URL is not one of http or https."""
        expected = "http://HOST/... or https://HOST/..."
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as cause:
            raise BadSetting(about="address of a model", got=url, expected=expected) from cause
        if parts.scheme not in ("http", "https") or not self._host:
            raise BadSetting(about="address of a model", got=url, expected=expected)
        if parts.scheme == "https" and context is None:
            raise BadSetting(about="address of a model", got=url, expected="a CA for https")
        self.name = url
        self._context = context if parts.scheme == "https" else None
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout, self._attempts = timeout, attempts
        self._closed = Event()
        self._sleep, self._seconds = sleep or self._closed.wait, seconds
        self._idle: deque[HTTPConnection] = deque()

    def read_into(self, offset: int, out: memoryview) -> int:
        """Fill `out` with the bytes from `offset` on; tells how long the whole resource is.

        What was received before a failure is kept. Raises ModelUnreachable after `attempts` failures
        in a row or READ_SECONDS_MAX, or at once where the server answers anything but this range.
        """
        failures, end = 0, self._seconds() + READ_SECONDS_MAX
        while True:
            before = len(out)
            connection = self._take()
            try:
                with self._ask(connection, offset, len(out)) as response:
                    total = self._check(response, offset, offset + len(out) - 1)
                    while out:
                        piece = response.read1(min(len(out), _PIECE_BYTES))
                        if not piece:
                            raise HTTPException("the body ended early")
                        out[: len(piece)] = piece
                        out, offset = out[len(piece) :], offset + len(piece)
                        if out and self._seconds() > end:
                            raise self._refused(f"{len(out)} bytes still missing in time")
                    if response.length is None:  # in chunks, perhaps without end
                        connection.close()
            except (OSError, HTTPException) as cause:
                connection.close()
                failures = 1 if len(out) < before else failures + 1
                if failures >= self._attempts or self._seconds() > end:
                    got = f"{type(cause).__name__}: {cause}"
                    raise ModelUnreachable(about=self.name, got=got) from cause
                self._sleep(min(_PAUSE_SECONDS * 2 ** (failures - 1), _PAUSE_SECONDS_MAX))
                if self._closed.is_set():
                    raise self._refused("closed") from None
            except ModelUnreachable:
                connection.close()
                raise
            else:
                self._idle.append(connection)
                if self._closed.is_set():  # while this was being read
                    self.close()
                return total

    def close(self) -> None:
        """Close the connections that are not in use; whoever reads on gives up at the next failure."""
        self._closed.set()
        while self._idle:
            self._idle.pop().close()

    def _ask(self, connection: HTTPConnection, start: int, length: int) -> HTTPResponse:
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        connection.request("GET", self._target, headers=headers)
        return connection.getresponse()

    def _take(self) -> HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            if self._context is None:
                return HTTPConnection(self._host, self._port, timeout=self._timeout)
            return HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._context
            )

    def _check(self, response: HTTPResponse, start: int, last: int) -> int:
        """The resource's whole length, if the answer is exactly the range that was asked for."""
        if response.status >= 500 or response.status in (408, 429):
            raise HTTPException(f"status {response.status}")
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        first, end, total = map(int, found.groups()) if found else (0, 0, 0)
        asked = f"206, bytes {start}-{last}, as they are"
        if response.status != 206:  # a redirect too: whoever may be asked was chosen by the caller
            raise self._refused(f"status {response.status}", asked)
        length = last - start + 1 if response.length is None else response.length
        if (first, end, length) != (start, last, last - start + 1):
            raise self._refused(f"bytes {first}-{end}, {length} long", asked)
        if coding := response.headers.get("Content-Encoding"):
            raise self._refused(f"encoding {coding}", asked)
        return total

    def _refused(self, got: str, expected: str | None = None) -> ModelUnreachable:
        return ModelUnreachable(about=self.name, got=got, expected=expected)
