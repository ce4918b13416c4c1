"""Brings the lent model into the worker: ciphertext from mirrors or the custodian, plaintext in memfds.

The governor keeps the descriptors, so wiping never depends on the worker's good will.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leasehold.core import frames
from leasehold.core.crypto import Entropy
from leasehold.core.frames import MemoryFile
from leasehold.enclave import memory
from leasehold.enclave.host import InferenceHost
from leasehold.enclave.lent import Lent
from leasehold.enclave.log import Log
from leasehold.enclave.settings import Settings
from leasehold.enclave.weights import FileSource, FileWriter, load_sealed
from leasehold.errors import BadModel, LeaseholdError, NoModelYet
from leasehold.net.fetch import PATIENT_ATTEMPTS, RangeReader
from leasehold.net.tls import client_context

_URL_SCHEMES: Final = ("http://", "https://")
_STEPS: Final = 10  # in which the log tells how far a load is


@dataclass(frozen=True, slots=True)
class _Writer:
    file: MemoryFile

    def write_at(self, offset: int, data: memoryview) -> None:
        """See `weights.FileWriter`."""
        memory.write(self.file, data, offset)


@dataclass(slots=True)
class MemorySink:
    """A `weights.Sink` of memory that `make` gives; the worker gets files read-only once they are whole."""

    files: list[MemoryFile] = field(default_factory=list)
    shredded: bool = False
    make: Callable[[str, int], MemoryFile] = memory.create

    def file(self, name: str, size: int) -> FileWriter:
        """Make room for one file. Raises NoModelYet after `shred`."""
        if self.shredded:
            raise NoModelYet(about="memory", got="shredded")
        made = self.make(name, size)
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
    entropy: Entropy
    origin: str
    mirrors: tuple[str, ...]
    make: Callable[[str, int], MemoryFile] = memory.create
    _sink: MemorySink = field(default_factory=MemorySink)
    _told: int = 0
    _ports: object = None

    async def load(self, lent: Lent) -> int:
        """See `boot.ModelLoader`."""
        await self.host.prepare(self.settings.engine)
        self._sink.shred()
        self._sink, self._told = (sink := MemorySink(make=self.make)), 0
        sources = self._sources(lent.terms.model.digest)
        try:
            model = await load_sealed(
                sources,
                digest=bytes.fromhex(lent.terms.model.digest),
                root_public=self.settings.custodian_root,
                model_key=lent.model_key,
                engine=self.settings.engine,
                sink=sink,
                on_progress=self._loading,
                on_drop=self._dropped,
            )
        finally:
            for source in sources:
                source.close()
        for file in sink.files:
            memory.seal(file)
        settings = frames.Settings(
            context_tokens=self.settings.context_tokens,
            slots=self.settings.slots,
            threads=self.settings.threads,
            seed=int.from_bytes(self.entropy(4), "big"),
        )
        loaded = await self.host.load(self.settings.engine, sink.files, settings)
        if loaded.has_copied:  # W-28
            for file in sink.files:
                memory.empty(file)
        ports = (loaded.inputs, loaded.outputs)
        if self._ports not in (None, ports):  # I-7: what is free of charge is told once
            raise BadModel(about="inputs and outputs", got="others than before")
        self._ports = ports
        self.log.event("engine_ready", layers=list(loaded.layers), absent=list(loaded.absent))
        return model.plain_bytes

    async def wipe(self) -> int:
        """See `boot.ModelLoader`."""
        size = sum(file.size for file in self._sink.files)
        await self.host.kill()
        self._sink.shred()
        return size

    def _sources(self, digest: str) -> list[RangeReader | FileSource]:
        context = client_context(self.settings.custodian_ca)
        sources: list[RangeReader | FileSource] = [
            RangeReader(place, context=context)
            if place.startswith(_URL_SCHEMES)
            else FileSource(Path(place))
            for place in self.mirrors
        ]
        last = f"{self.origin}/models/{digest}"
        return [*sources, RangeReader(last, context=context, attempts=PATIENT_ATTEMPTS)]

    def _loading(self, done: int, total: int) -> None:
        if (step := _STEPS * done // max(1, total)) > self._told:
            self._told = step
            self.log.event("loading", bytes=done, of=total)

    def _dropped(self, place: str, cause: LeaseholdError) -> None:
        """Names the place and the segment: all of it the host's own words, or ciphertext it has."""
        self.log.event("source_dropped", source=place, code=cause.code, why=cause.message)
