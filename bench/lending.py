"""A custodian's folder, a loan, consumers, server processes: what benches over real sockets start from."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.e2e.house import House

from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.evidence import Attester
from leasehold.enclave.attesters import open_attester
from leasehold.enclave.prover import InstanceKeys
from leasehold.enclave.settings import Settings, parse_settings
from leasehold.net.certificates import enclave_certificate

T = TypeVar("T")
ROOT: Final = Path(__file__).parent.parent
LOAN: Final = "crowd"
MODEL: Final = "tiny"
CAP: Final = 1 << 40
OUTSTANDING: Final = 1 << 30
GRANT: Final = 1 << 30
DESCRIPTORS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers each line with one: `bench.office` or `bench.governors`."""

    process: subprocess.Popen[str]
    port: int = 0

    def tell(self, **command: Any) -> None:
        """Hand over a command."""
        if self.process.stdin is None:
            raise RuntimeError("no input")
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for the next line. Raises RuntimeError where the process has ended."""
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended")
        told: dict[str, Any] = json.loads(line)
        return told

    def ask(self, **command: Any) -> dict[str, Any]:
        """Both."""
        self.tell(**command)
        return self.hear()


@contextmanager
def process(*words: object) -> Iterator[Server]:
    """Run `python -m WORDS` while the block does."""
    command = [sys.executable, "-m", *map(str, words)]
    started = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Server(started)
    finally:
        started.kill()
        started.wait()
        for pipe in (started.stdin, started.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def office(kind: str, folder: Path) -> Iterator[Server]:
    """A custodian or its floor that listens."""
    with process("bench.office", kind, folder) as server:
        yield Server(server.process, server.hear()["port"])


@dataclass(frozen=True, slots=True)
class Lending:
    """A loan that enclaves on one simulated machine may serve, and consumers' keys for it."""

    house: House
    keys: tuple[str, ...]

    @property
    def office(self) -> Path:
        """The custodian's folder."""
        return self.house.office

    @property
    def settings(self) -> Settings:
        """The enclaves' signed configuration."""
        return parse_settings(self.house.configuration(LOAN).read_bytes())


@contextmanager
def lending(*, instances: int, consumers: int = 1) -> Iterator[Lending]:
    """Make all of it on this machine's disk; no server runs afterwards."""
    raise_descriptors()
    with tempfile.TemporaryDirectory(dir=".") as place:
        house = House(Path(place).absolute())
        house.found()
        house.seal_tiny(MODEL)
        with office("custodian", house.office):
            most = ("--instances-max", instances, "--outstanding-max", OUTSTANDING)
            house.lend(LOAN, MODEL, "llama", *most, cap=CAP)
            grant = {LOAN: GRANT}
            keys = tuple(house.enrol(f"c{number}", grant) for number in range(consumers))
        yield Lending(house, keys)


def raise_descriptors() -> None:
    """A thousand connections of one process, twice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_keys() -> InstanceKeys:
    """What an instance makes at boot."""
    tls = TlsKey.make(os.urandom)
    return InstanceKeys(
        tls, enclave_certificate(tls, entropy=os.urandom), SigningKey.make(os.urandom)
    )


def attester(folder: Path) -> Attester:
    """The simulated machine in that folder."""
    return open_attester("simulated", str(folder))


async def in_thread(work: Callable[[], T]) -> T:
    """Quotes are slow."""
    return await asyncio.to_thread(work)
