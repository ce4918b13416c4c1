"""Where an enclave is met. Its certificate says who it is; the address says nothing about that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from leasehold.errors import BadAddress

PORT: Final = 443


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address (IPv6 without brackets) and a port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """`https://HOST:PORT`, with brackets where IPv6 needs them."""
        return f"https://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST`, `HOST:PORT` or `https://HOST:PORT`; no port means 443. Raises BadAddress.

    Plain `http://` is refused: what goes there could be read on the way.
    """
    wrong = BadAddress(got=text, expected="HOST:PORT")
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as cause:
        raise wrong from cause
    surplus = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme != "https" or not host or surplus or port == 0:
        raise wrong
    return Address(host, PORT if port is None else port)
