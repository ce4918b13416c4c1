"""A relay that writes down every byte of both directions: the borrower's view of the wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass(slots=True)
class Relay:
    """Listens, and passes everything on to a port of this machine."""

    target: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    seen: list[bytearray] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def run(self) -> None:
        """Until the listener is closed."""
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()  # as if it had been asked itself
                    continue
                for source, sink in ((near, far), (far, near)):
                    said = bytearray()
                    self.seen.append(said)
                    threading.Thread(
                        target=self._pass_on, args=(source, sink, said), daemon=True
                    ).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, said: bytearray) -> None:
        with source, suppress(OSError):  # each direction closes the end that it reads
            with suppress(OSError):
                while data := source.recv(CHUNK):
                    said += data
                    sink.sendall(data)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """A relay to this port."""
    made = Relay(target)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.listener.shutdown(socket.SHUT_RDWR)
        made.listener.close()
        thread.join(5)
