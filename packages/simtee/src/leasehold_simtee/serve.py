"""Serves SIMULATED vendors over HTTP on this machine, for tests and demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final

from leasehold_simtee.vendors import Reply

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 64 * 1024

Answer = Callable[[str, str, bytes], Reply]


def make_server(answer: Answer, port: int = 0) -> ThreadingHTTPServer:
    """A server on this machine's loopback address; port 0 is a free one. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            size = min(int(self.headers.get("Content-Length", "0")), BODY_BYTES_MAX)
            self._reply(self.rfile.read(size))

        def _reply(self, body: bytes) -> None:
            reply = answer(self.command, self.path, body)
            self.send_response(reply.status)
            length = {"Content-Length": str(len(reply.body))}
            for name, value in {**length, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: standard error belongs to whoever serves."""

    return _Quiet((HOST, port), Handler)


class _Quiet(ThreadingHTTPServer):
    """Whoever hangs up early is not worth a traceback."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@contextmanager
def serving(answer: Answer, port: int = 0) -> Iterator[str]:
    """The address of a server that runs while the block does."""
    server = make_server(answer, port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
