"""What stands for memory, disk and log in the simulated world, with the real loading code on top."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from leasehold.enclave.lent import Lent
from leasehold.enclave.log import FIELDS
from leasehold.enclave.weights import Loading, Sources
from leasehold.errors import BadSealedModel
from leasehold.testing.host import InProcessHost

ENGINE: Final = "fake"


@dataclass(slots=True)
class Events:
    """A log that keeps its events, and is as strict as the real one."""

    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        """Keep the event. Raises ValueError for a field outside the allow-list."""
        if fields.keys() - FIELDS:
            raise ValueError(f"log fields outside the allow-list: {sorted(fields.keys() - FIELDS)}")
        self.said.append((name, fields))

    def names(self) -> list[str]:
        """The events' names in order."""
        return [name for name, _ in self.said]


class MemorySource:
    """The sealed model as bytes; a test may damage them."""

    def __init__(self, data: bytes) -> None:
        self.name = "memory"
        self.data = bytearray(data)

    def read_into(self, offset: int, out: memoryview) -> int:
        """See `weights.ModelSource`."""
        part = self.data[offset : offset + len(out)]
        if len(part) < len(out):
            raise BadSealedModel(about=self.name, got="its end", expected="more bytes")
        out[:] = part
        return len(self.data)


class MemorySink:
    """Plaintext in byte arrays, to look at after a wipe."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def file(self, name: str, size: int) -> _MemoryWriter:
        """See `weights.Sink`."""
        self.files[name] = bytearray(size)
        return _MemoryWriter(self.files[name])

    def shred(self) -> None:
        """See `weights.Sink`."""
        for data in self.files.values():
            data[:] = bytes(len(data))
        self.files = {}


@dataclass(frozen=True, slots=True)
class _MemoryWriter:
    data: bytearray

    def write_at(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = data


@dataclass(slots=True)
class WorldLoader:
    """A ModelLoader that decrypts the real sealed file, at once, and starts the in-process engine."""

    host: InProcessHost
    root: bytes
    source: MemorySource
    sink: MemorySink = field(default_factory=MemorySink)
    engine: str = ENGINE

    async def load(self, lent: Lent) -> int:
        """See `boot.ModelLoader`."""
        await asyncio.sleep(0.05)
        loading = Loading(
            Sources([self.source], lambda _name, _cause: None),
            self.engine,
            self.sink,
            1,
            lambda _done, _of: None,
        )
        model = loading.run(
            digest=bytes.fromhex(lent.terms.model.digest),
            root_public=self.root,
            model_key=lent.model_key,
        )
        await self.host.load(self.engine, ())
        return model.plain_bytes

    async def wipe(self) -> int:
        """See `boot.ModelLoader`."""
        size = sum(len(data) for data in self.sink.files.values())
        await self.host.kill()
        self.sink.shred()
        return size
