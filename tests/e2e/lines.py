"""Lines between an enclave and its custodian that can fall silent: a relay, and network namespaces.

A silent line drops what is sent over it and closes nothing: neither end is told. Either direction can be
silent alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

CHUNK: Final = 65_536
UP, DOWN, BOTH = "up", "down", "both"


class Line(Protocol):
    """What an enclave's processes run behind."""

    prefix: tuple[str, ...]
    """Words before the command that starts the enclave."""
    custodian: str
    """Where the enclave finds its custodian."""
    host: str
    """Where the enclave listens for consumers, who are never cut off."""

    def cut(self) -> None:
        """Drop everything from now on."""

    def mend(self) -> None:
        """Let everything through again."""


@dataclass(slots=True)
class Relay:
    """A TCP relay on the loopback before a custodian; silent in the direction `silent` while it is cut.

    It may be led to another replica of the custodian, as a load balancer does.
    Bytes that a cut line swallowed are lost for ever, so mending it ends the connections it had then,
    as a firewall does that has forgotten them.
    """

    custodian_host: str
    custodian_port: int
    silent: str = BOTH
    prefix: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    swallowed: dict[str, int] = field(default_factory=lambda: {UP: 0, DOWN: 0})
    _listener: socket.socket = field(init=False)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _is_cut: bool = False

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    @property
    def custodian(self) -> str:
        """Where the enclave finds its custodian."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Drop every byte of the silent direction; new connections are taken and get nowhere."""
        self._is_cut = True

    def mend(self) -> None:
        """Forget the connections of before, and let new ones through."""
        self._is_cut = False
        _hang_up(*self._open)

    def lead(self, port: int) -> None:
        """New connections go to the custodian at this port from now on; those that are open stay."""
        self.custodian_port = port

    def end(self) -> None:
        """Take no more connections, and end those that are open."""
        _hang_up(self._listener)
        self._threads[0].join()
        _hang_up(*self._open)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _start(self, run: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=run, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                enclave, _ = self._listener.accept()
            except OSError:
                return  # the test is over
            self._open.append(enclave)
            try:
                custodian = socket.create_connection((self.custodian_host, self.custodian_port))
            except OSError:
                _hang_up(enclave)  # there is no custodian at the moment
                continue
            self._open.append(custodian)
            self._start(self._pump, enclave, custodian, UP)
            self._start(self._pump, custodian, enclave, DOWN)

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if self._is_cut and self.silent in (way, BOTH):
                    self.swallowed[way] += len(data)
                else:
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _hang_up(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):  # it is not connected any more
            one.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class Namespaces:
    """An enclave in a network namespace of its own, and a router in another between it and the rest.

    The router has black holes instead of its routes while the line is cut: packets vanish, and no
    interface goes down. Consumers come to another address of the enclave, by routes that stay.
    Addresses are of 198.18.0.0/15, which is set apart for tests of networks (RFC 2544).
    """

    number: int
    custodian_port: int
    prefix: tuple[str, ...] = ()

    @classmethod
    def make(cls, custodian_port: int) -> Namespaces:
        """Raises OSError where this machine does not allow it, with the reason."""
        made = cls(os.getpid() % 256, custodian_port)
        made.prefix = ("ip", "netns", "exec", made._enclave)
        try:
            made._lay()
        except OSError:
            made.end()
            raise
        return made

    @property
    def office(self) -> str:
        """The custodian's address, which the router can hide from the enclave."""
        return self._at(130)

    @property
    def custodian(self) -> str:
        """Where the enclave finds its custodian."""
        return f"{self.office}:{self.custodian_port}"

    @property
    def host(self) -> str:
        """Where the enclave listens for consumers."""
        return self._at(129)

    def cut(self) -> None:
        """Both directions."""
        for address in (self._at(6), self.office):
            _ip("-n", self._router, "route", "replace", "blackhole", f"{address}/32", "metric", 1)

    def mend(self) -> None:
        """The routes count again."""
        for address in (self._at(6), self.office):
            _ip("-n", self._router, "route", "del", "blackhole", f"{address}/32", "metric", 1)

    def end(self) -> None:
        """Remove both namespaces and their interfaces."""
        for words in (("link", "del", self._near), ("netns", "del", self._enclave)):
            with suppress(OSError):
                _ip(*words)
        with suppress(OSError):
            _ip("netns", "del", self._router)

    @property
    def _near(self) -> str:
        return f"lh{os.getpid()}"

    @property
    def _enclave(self) -> str:
        return f"lh-enclave-{os.getpid()}"

    @property
    def _router(self) -> str:
        return f"lh-router-{os.getpid()}"

    def _at(self, last: int) -> str:
        return f"198.18.{self.number}.{last}"

    def _lay(self) -> None:
        enclave, router, near = self._enclave, self._router, self._near
        for name in (enclave, router):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", near, "type", "veth", "peer", "name", "near", "netns", router)
        _ip(
            "-n",
            router,
            "link",
            "add",
            "far",
            "type",
            "veth",
            "peer",
            "name",
            "e0",
            "netns",
            enclave,
        )
        _ip("addr", "add", f"{self._at(1)}/30", "dev", near)
        _ip("addr", "add", f"{self.office}/32", "dev", near)
        _ip("-n", router, "addr", "add", f"{self._at(2)}/30", "dev", "near")
        _ip("-n", router, "addr", "add", f"{self._at(5)}/30", "dev", "far")
        _ip("-n", enclave, "addr", "add", f"{self._at(6)}/30", "dev", "e0")
        _ip("-n", enclave, "addr", "add", f"{self.host}/32", "dev", "e0")
        _ip("link", "set", near, "up")
        for name, device in ((router, "near"), (router, "far"), (enclave, "e0")):
            _ip("-n", name, "link", "set", device, "up")
        for address in (f"{self._at(4)}/30", f"{self.host}/32"):
            _ip("route", "add", address, "via", self._at(2))
        _ip("-n", router, "route", "add", f"{self.host}/32", "via", self._at(6))
        _ip("-n", router, "route", "add", f"{self.office}/32", "via", self._at(1), "metric", 2)
        _ip("-n", router, "route", "add", f"{self._at(6)}/32", "dev", "far", "metric", 2)
        _ip("-n", enclave, "route", "add", "default", "via", self._at(5))
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run("ip", "netns", "exec", router, "sh", "-c", forward)


def _ip(*words: Any) -> None:
    _run("ip", *(str(word) for word in words))


def _run(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise OSError(f"{' '.join(words)}: {ran.stderr.strip()}")
