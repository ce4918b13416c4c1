"""S-11: mirrors that lie, dawdle or break off, as real servers that write bytes to a socket."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

import pytest

from leasehold.errors import ModelUnreachable
from leasehold.net.fetch import ATTEMPTS, PATIENT_ATTEMPTS, RangeReader

DATA = bytes(range(256)) * 4096
Answer = Callable[["Mirror", socket.socket, int, int], None]


@dataclass
class Mirror:
    """Answers each request with the next of `answers`, and all later ones honestly."""

    answers: list[Answer]
    asked: list[tuple[int, int]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/model"

    def run(self) -> None:
        """Until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        """One connection, kept alive until an answer closes it."""
        with connection, suppress(OSError):
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    if not (got := connection.recv(65536)):
                        return
                    head += got
                self.heads.append(head)
                found = re.search(rb"bytes=(\d+)-(\d+)", head)
                assert found is not None
                first, last = map(int, found.groups())
                self.asked.append((first, last))
                (self.answers.pop(0) if self.answers else honest)(self, connection, first, last)


def head(status: str, *headers: str) -> bytes:
    """A status line and headers."""
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


def span(first: int, last: int, total: int = len(DATA)) -> str:
    """The header that says which range this is."""
    return f"Content-Range: bytes {first}-{last}/{total}"


def honest(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
    """Exactly what was asked for."""
    body = DATA[first : last + 1]
    out.sendall(head("206 Partial", span(first, last), f"Content-Length: {len(body)}") + body)


def saying(status: str, *headers: str, body: bytes = b"") -> Answer:
    """An answer of always the same words; `{first}` and `{last}` stand for what was asked for."""

    def answer(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
        said = [line.format(first=first, last=last, size=last - first + 1) for line in headers]
        out.sendall(head(status, *said) + body)

    return answer


def cut(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
    """The connection breaks after half of the range."""
    body = DATA[first : last + 1]
    out.sendall(head("206 Partial", span(first, last), f"Content-Length: {len(body)}"))
    out.sendall(body[: len(body) // 2])
    out.close()


def endless(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
    """The range, and after it chunks without an end."""
    out.sendall(head("206 Partial", span(first, last), "Transfer-Encoding: chunked"))
    body = DATA[first : last + 1]
    out.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n")
    with suppress(OSError):
        while True:
            out.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    made = Mirror([])
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()
    thread.join(5)


def read(mirror: Mirror, size: int = 300_000, offset: int = 1000, **more: float) -> bytes:
    """One range through a reader that does not wait between attempts."""
    out = bytearray(size)
    with closing(RangeReader(mirror.url, sleep=lambda _: None, **more)) as reader:
        assert reader.read_into(offset, memoryview(out)) == len(DATA)
    return bytes(out)


def refused(mirror: Mirror, match: str) -> None:
    """The mirror is given up for this reason after it was asked once."""
    with pytest.raises(ModelUnreachable, match=match):
        read(mirror)
    assert len(mirror.asked) == 1


def test_a_whole_file_for_a_range_is_refused(mirror: Mirror) -> None:
    mirror.answers = [saying("200 OK", f"Content-Length: {len(DATA)}", body=DATA)]
    refused(mirror, r"status 200\. Expected: 206, bytes 1000-300999")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_nobody_is_followed_elsewhere(mirror: Mirror, status: str) -> None:
    elsewhere = Mirror([])
    mirror.answers = [saying(status, f"Location: {elsewhere.url}", "Content-Length: 0")]
    refused(mirror, f"status {status[:3]}")
    elsewhere.listener.close()
    assert elsewhere.asked == []


def test_another_range_than_asked_for_is_refused(mirror: Mirror) -> None:
    mirror.answers = [saying("206 Partial", span(0, 299_999), "Content-Length: 300000")]
    refused(mirror, "bytes 0-299999")


@pytest.mark.parametrize("value", ["", "bytes */5", "bytes 1000-300999/*", "items 1-2/3"])
def test_a_range_without_its_numbers_is_refused(mirror: Mirror, value: str) -> None:
    mirror.answers = [saying("206 Partial", f"Content-Range: {value}", "Content-Length: 300000")]
    refused(mirror, "bytes 0-0")


@pytest.mark.parametrize("size", [0, 299_999, 300_001, 1 << 60])
def test_a_body_of_another_length_is_refused_before_it_is_read(mirror: Mirror, size: int) -> None:
    mirror.answers = [saying("206 Partial", span(1000, 300_999), f"Content-Length: {size}")]
    refused(mirror, f"bytes 1000-300999, {size} long")


@pytest.mark.parametrize("coding", ["gzip", "br", "x-unheard-of"])
def test_a_coded_body_is_refused(mirror: Mirror, coding: str) -> None:
    mirror.answers = [
        saying(
            "206 Partial",
            span(1000, 300_999),
            "Content-Length: 300000",
            f"Content-Encoding: {coding}",
            body=bytes(300_000),
        )
    ]
    refused(mirror, f"encoding {coding}")
    assert b"accept-encoding: identity" in mirror.heads[0].lower()


def test_an_endless_body_is_left_where_the_range_ends(mirror: Mirror) -> None:
    mirror.answers = [endless]
    out = bytearray(2000)
    with closing(RangeReader(mirror.url, sleep=lambda _: None)) as reader:
        for offset in (500, 600):  # the second is asked on a connection of its own
            reader.read_into(offset, memoryview(out))
            assert out == DATA[offset : offset + 2000]
    assert mirror.connections == 2


def test_honest_answers_share_a_connection(mirror: Mirror) -> None:
    with closing(RangeReader(mirror.url)) as reader:
        for offset in range(5):
            out = bytearray(10)
            reader.read_into(offset, memoryview(out))
            assert out == DATA[offset : offset + 10]
    assert mirror.connections == 1


def test_a_break_is_resumed_at_the_missing_byte(mirror: Mirror) -> None:
    mirror.answers = [cut, cut, cut]
    assert read(mirror) == DATA[1000:301_000]
    firsts = [first for first, _ in mirror.asked]
    assert firsts == [1000, 151_000, 226_000, 263_500]
    assert {last for _, last in mirror.asked} == {300_999}


def test_progress_is_counted_and_standing_still_is_not(mirror: Mirror) -> None:
    mirror.answers = [cut] * 3 + [saying("503 Busy", "Content-Length: 0")] * ATTEMPTS
    with pytest.raises(ModelUnreachable, match="status 503"):
        read(mirror)
    assert len(mirror.asked) == 3 + ATTEMPTS - 1  # the last break is the first failure in a row


@pytest.mark.parametrize(
    "nonsense", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 206 X\r\nA: " + b"a" * 70_000, b""]
)
def test_what_is_no_http_is_given_up(mirror: Mirror, nonsense: bytes) -> None:
    def babble(_mirror: Mirror, out: socket.socket, _first: int, _last: int) -> None:
        out.sendall(nonsense)
        out.shutdown(socket.SHUT_WR)

    mirror.answers = [babble] * ATTEMPTS
    with pytest.raises(ModelUnreachable, match=r"BadStatusLine|LineTooLong|RemoteDisconnected"):
        read(mirror)
    assert len(mirror.asked) == ATTEMPTS


def test_silence_is_a_failure(mirror: Mirror) -> None:
    mirror.answers = [lambda *_: None] * ATTEMPTS
    with pytest.raises(ModelUnreachable, match="timed out"):
        read(mirror, timeout=0.05)
    assert len(mirror.asked) == ATTEMPTS


def test_a_drip_is_given_up_after_the_time_for_a_range(mirror: Mirror) -> None:
    """Each byte comes before the time for silence ends; the hours go by on the reader's own clock."""
    hours = iter(range(0, 1_000_000, 60))

    def drip(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
        out.sendall(head("206 Partial", span(first, last), f"Content-Length: {last - first + 1}"))
        with suppress(OSError):
            for byte in DATA[first : last + 1]:
                out.sendall(bytes([byte]))

    mirror.answers = [drip]
    out = memoryview(bytearray(300_000))
    with (
        closing(RangeReader(mirror.url, seconds=lambda: float(next(hours)))) as reader,
        pytest.raises(ModelUnreachable, match="still missing in time"),
    ):
        reader.read_into(1000, out)
    assert len(mirror.asked) == 1


def test_a_reader_that_is_closed_meanwhile_wakes_up_and_gives_up(mirror: Mirror) -> None:
    """Else a stop in the middle of an outage would wait for minutes."""
    mirror.answers = [saying("503 Busy", "Content-Length: 0")] * 50
    reader = RangeReader(mirror.url, attempts=PATIENT_ATTEMPTS)
    failures: list[ModelUnreachable] = []

    def read_on() -> None:
        with pytest.raises(ModelUnreachable) as failure:
            reader.read_into(0, memoryview(bytearray(10)))
        failures.append(failure.value)

    reading = threading.Thread(target=read_on)
    reading.start()
    while len(mirror.asked) < 3:
        threading.Event().wait(0.01)
    reader.close()
    reading.join(10)
    assert "closed" in str(failures[0])
    assert len(mirror.asked) < 10


def test_where_nobody_else_is_left_an_outage_of_minutes_is_borne(mirror: Mirror) -> None:
    waits: list[float] = []
    mirror.answers = [saying("503 Busy", "Content-Length: 0")] * (PATIENT_ATTEMPTS - 1)
    out = bytearray(10)
    with closing(RangeReader(mirror.url, attempts=PATIENT_ATTEMPTS, sleep=waits.append)) as reader:
        reader.read_into(5, memoryview(out))
    assert out == DATA[5:15]
    assert 240 < sum(waits) < 360
    assert max(waits) == 15


def test_a_reader_that_is_closed_while_it_reads_leaves_no_connection_open(mirror: Mirror) -> None:
    reader = RangeReader(mirror.url)

    def closing_meanwhile(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
        reader.close()
        honest(_mirror, out, first, last)
        assert out.recv(1) == b""  # the other end was closed
        ended.set()

    ended = threading.Event()
    mirror.answers = [closing_meanwhile]
    reader.read_into(0, memoryview(bytearray(10)))
    assert ended.wait(10)


def test_who_promises_more_than_comes_and_falls_silent_is_given_up_in_time(mirror: Mirror) -> None:
    def promise(_mirror: Mirror, out: socket.socket, first: int, last: int) -> None:
        out.sendall(head("206 Partial", span(first, last), f"Content-Length: {last - first + 1}"))
        out.sendall(DATA[first:last])

    mirror.answers = [promise] + [lambda *_: None] * PATIENT_ATTEMPTS
    minutes = iter(range(0, 1_000_000, 60))
    reader = RangeReader(
        mirror.url,
        timeout=0.05,
        attempts=PATIENT_ATTEMPTS,
        sleep=lambda _: None,
        seconds=lambda: float(next(minutes)),
    )
    with closing(reader), pytest.raises(ModelUnreachable, match="timed out"):
        reader.read_into(0, memoryview(bytearray(10)))
    assert mirror.asked[1] == (9, 9)
    assert len(mirror.asked) < PATIENT_ATTEMPTS
