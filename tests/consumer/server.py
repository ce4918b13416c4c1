"""Serves a fake enclave over real TLS on the loopback and remembers every byte that reached it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from consumer.world import FakeEnclave, Response
from leasehold.net.tls import enclave_server_context


class TlsServer:
    """One listener. `restart` swaps the enclave behind it, as a new start of an enclave does."""

    def __init__(self, enclave: FakeEnclave) -> None:
        self.enclave = enclave
        self.received: list[bytes] = []
        """The clear text of every request, by request, in order of arrival."""
        self.handshakes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def restart(self, enclave: FakeEnclave) -> None:
        """Another enclave takes over: all connections end, new handshakes meet the newcomer."""
        self.enclave = enclave
        self.drop()

    def drop(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with self._lock:
                    self._open.add(plain)
                self._start(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        enclave = self.enclave
        context = enclave_server_context(enclave.certificate, enclave.tls)
        with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
            with self._lock:
                self.handshakes += 1
                self._open.add(secured)
            while self._answer(enclave, secured):
                pass
        with self._lock:
            self._open = {one for one in self._open if one.fileno() != -1}

    def _answer(self, enclave: FakeEnclave, secured: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            got = secured.recv(65536)
            if not got:
                return False
            data += got
        head, _, body = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (h.partition(":") for h in lines)
        }
        while len(body) < int(headers.get("content-length", 0)):
            body += secured.recv(65536)
        self.received.append(head + b"\r\n\r\n" + body)
        method, path, _ = line.split(" ")
        _send(secured, enclave.respond(method, path, headers, body))
        return headers.get("connection") != "close"


def _send(secured: socket.socket, response: Response) -> None:
    head = [f"HTTP/1.1 {response.status} X", "transfer-encoding: chunked"]
    head += [f"{name}: {value}" for name, value in response.headers]
    secured.sendall("\r\n".join([*head, "", ""]).encode())
    for part in response.parts:
        secured.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    secured.sendall(b"0\r\n\r\n")
