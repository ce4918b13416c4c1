"""llama.cpp's own HTTP listener, put where only this process reaches it, and used to count tokens.

Spec: docs/spec/worker.md, W-12. It cannot be switched off. It gets an abstract Unix socket with a
random name, which exists in this process's network namespace only, and a random key.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Final

from leasehold.errors import BadRequest, WorkerFailed

ANSWER_BYTES_MAX: Final = 64 << 20  # the token ids of a text of 4 MiB, ten digits each, and more
SECONDS_MAX: Final = 60.0  # to render a template; longer ones are an attack on it
_OK: Final = 200
_THEIR_FAULT: Final = range(400, 500)


@dataclass(frozen=True, slots=True)
class Ask:
    """Where the listener is, and its key."""

    name: str
    key: str

    @property
    def hostname(self) -> str:
        """The address as llama.cpp takes it: `@` for the abstract namespace, `.sock` for Unix."""
        return f"@{self.name}.sock"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask one question. Raises BadRequest where llama.cpp refuses it, WorkerFailed."""
        try:
            status, content = self._exchange(path, json.dumps(body).encode())
            answer = json.loads(content)
        except (OSError, ValueError) as cause:
            raise WorkerFailed(about=path, got=cause) from cause
        if status in _THEIR_FAULT:
            raise BadRequest(about=path, got=status)
        if status != _OK or not isinstance(answer, dict):
            raise WorkerFailed(about=path, got=status)
        return answer

    def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
            wire.settimeout(SECONDS_MAX)
            wire.connect(self.hostname.replace("@", "\0", 1))
            wire.sendall(head.encode("ascii") + body)
            answer = bytearray()
            while data := wire.recv(1 << 16):
                answer += data
                if len(answer) > ANSWER_BYTES_MAX:
                    raise OSError("the answer does not end")
        status_line, _, rest = bytes(answer).partition(b"\r\n")
        return int(status_line.split(b" ")[1]), rest.partition(b"\r\n\r\n")[2]
