"""A key service that answers as Vault's transit engine does (API of 1.15): a server of its own on the loopback.

Keys have versions, encryption takes the newest, decryption any down to `min_decryption`; associated data
counts; the errors are Vault's, word for word.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.CAESIJ-canary-of-the-access-token"


class Transit(ThreadingHTTPServer):
    """The service. `answer` replaces what it says, where a test wants it broken."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: dict[str, list[bytes]] = {"leasehold": [os.urandom(32)]}
        self.min_decryption = 1
        self.sealed = False
        self.token = TOKEN
        self.namespace = ""
        self.answer: tuple[int, bytes] | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def rotate(self, name: str = "leasehold") -> None:
        """A new version of a key; what was encrypted under the old ones still opens."""
        self.keys[name].append(os.urandom(32))


class _Handler(BaseHTTPRequestHandler):
    server: Transit
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """`/v1/transit/{encrypt,decrypt}/NAME`."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers)))
        status, said = self._answer(body)
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status in (301, 307):
            self.send_header("Location", f"{self.server.address}/v1/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: dict[str, str]) -> tuple[int, Any]:
        here = self.server
        if here.answer is not None:
            return here.answer
        if here.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if (
            self.headers.get("X-Vault-Token") != here.token
            or self.headers.get("X-Vault-Namespace", "") != here.namespace
        ):
            return 403, {"errors": ["permission denied"]}
        *mount, act, name = self.path.removeprefix("/v1/").split("/")
        if mount != ["transit"]:
            return 404, {"errors": [f"no handler for route '{'/'.join(mount)}'"]}
        if name not in here.keys:
            return 400, {"errors": ["encryption key not found"]}
        versions = here.keys[name]
        associated = base64.b64decode(body.get("associated_data", ""))
        if act == "encrypt":
            nonce = os.urandom(12)
            plain = base64.b64decode(body["plaintext"])
            sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, plain, associated)
            text = f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"
            return 200, {"data": {"ciphertext": text, "key_version": len(versions)}}
        vault, version, text = body["ciphertext"].split(":")
        number = int(version.removeprefix("v"))
        if vault != "vault" or number > len(versions):
            return 400, {"errors": ["invalid ciphertext: version is too new"]}
        if number < here.min_decryption:
            return 400, {
                "errors": ["ciphertext or signature version is disallowed by policy (too old)"]
            }
        data = base64.b64decode(text)
        try:
            plain = AESGCM(versions[number - 1]).decrypt(data[:12], data[12:], associated)
        except InvalidTag:
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@contextmanager
def transit() -> Iterator[Transit]:
    """A running service."""
    server = Transit()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
