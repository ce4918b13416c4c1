"""Brings the lent model into the worker: ciphertext from mirrors or the custodian, plaintext in memfds.

The governor keeps the descriptors, so wiping never depends on the worker's good will.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leasehold.core import frames
from leasehold.core.frames import MemoryFile
from leasehold.enclave import memory
from leasehold.enclave.host import InferenceHost
from leasehold.enclave.lent import Lent
from leasehold.enclave.log import Log
from leasehold.enclave.settings import Settings
from leasehold.enclave.weights import FileSource, FileWriter, ModelSource, load_sealed
from leasehold.errors import LeaseholdError, NoModelYet
from leasehold.net.fetch import RangeReader
from leasehold.net.tls import client_context

_URL_SCHEMES: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class _Writer:
    file: MemoryFile

    def write_at(self, offset: int, data: memoryview) -> None:
        """See `weights.FileWriter`."""
        memory.write(self.file, data, offset)


@dataclass(slots=True)
class MemorySink:
    """A `weights.Sink` of memory files, which the worker gets read-only once they are whole."""

    files: list[MemoryFile] = field(default_factory=list)
    shredded: bool = False

    def file(self, name: str, size: int) -> FileWriter:
        """Make room for one file. Raises NoModelYet after `shred`."""
        if self.shredded:
            raise NoModelYet(about="memory", got="shredded")
        made = memory.create(name, size)
        self.files.append(made)
        return _Writer(made)

    def shred(self) -> None:
        """Give every page back."""
        self.shredded = True
        files, self.files = self.files, []
        for file in files:
            memory.shred(file)


@dataclass(slots=True)
class SealedLoader:
    """A `boot.ModelLoader` for real memory and a real worker.

    `origin` is the custodian as https://HOST:PORT, asked after all `mirrors` (URLs or paths).
    """

    host: InferenceHost
    settings: Settings
    log: Log
    origin: str
    mirrors: tuple[str, ...]
    _sink: MemorySink = field(default_factory=MemorySink)

    async def load(self, lent: Lent) -> int:
        """See `boot.ModelLoader`."""
        await self.wipe()
        self._sink = sink = MemorySink()
        model = await load_sealed(
            self._sources(lent.terms.model.digest),
            digest=bytes.fromhex(lent.terms.model.digest),
            root_public=self.settings.custodian_root,
            model_key=lent.model_key,
            sink=sink,
            on_drop=self._dropped,
        )
        for file in sink.files:
            memory.seal(file)
        settings = frames.Settings(
            context_tokens=self.settings.context_tokens,
            slots=self.settings.slots,
            threads=self.settings.threads,
        )
        loaded = await self.host.load(self.settings.engine, sink.files, settings)
        self.log.event("engine_ready", layers=list(loaded.layers), absent=list(loaded.absent))
        return model.plain_bytes

    async def wipe(self) -> int:
        """See `boot.ModelLoader`."""
        size = sum(file.size for file in self._sink.files)
        await self.host.kill()
        self._sink.shred()
        return size

    def _sources(self, digest: str) -> list[ModelSource]:
        context = client_context(self.settings.custodian_ca)
        places = (*self.mirrors, f"{self.origin}/models/{digest}")
        return [
            RangeReader(place, context=context)
            if place.startswith(_URL_SCHEMES)
            else FileSource(Path(place))
            for place in places
        ]

    def _dropped(self, _place: str, cause: LeaseholdError) -> None:
        self.log.event("source_dropped", code=cause.code)
