"""The loader with real memory files and real mirrors: what the log says, what the engine gets, the wiping."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from leasehold.core import frames
from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import LoanTerms, ModelTerms
from leasehold.core.statements import Signed
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.core.tariff import NAMED
from leasehold.core.units import DAY, Duration, Instant, Units
from leasehold.custodian.seal import Sealed, seal_folder
from leasehold.enclave.lent import Lent
from leasehold.enclave.loader import SealedLoader
from leasehold.enclave.settings import Settings
from leasehold.errors import BadSealedModel, ModelUnreachable, NoModelYet, WrongEngine
from leasehold.net.authority import Validity, make_authority

ROOT = SigningKey.load(b"r" * 32)
CONTENTS = {"config.json": b"{}", "model.gguf": os.urandom(30 * SEGMENT_BYTES + 7)}


@dataclass
class Host:
    """Keeps what the engine would get."""

    contents: dict[str, bytes] = field(default_factory=dict)
    settings: list[frames.Settings] = field(default_factory=list)
    kills: int = 0
    copies: bool = False

    async def prepare(self, _engine: str) -> None:
        """Nothing waits here."""

    async def load(
        self, _engine: str, files: Sequence[frames.MemoryFile], settings: frames.Settings
    ) -> frames.Loaded:
        """Read all of it."""
        self.contents = {file.name: os.pread(file.fd, file.size + 1, 0) for file in files}
        self.settings.append(settings)
        return frames.Loaded((frames.Capability.TEXT,), 64, 8, has_copied=self.copies)

    async def kill(self) -> None:
        """Count."""
        self.kills += 1


@dataclass
class Events:
    """A log to look at."""

    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        """Keep it."""
        self.said.append((name, fields))

    def of(self, name: str) -> list[dict[str, object]]:
        """The events of one name."""
        return [fields for one, fields in self.said if one == name]


class Files(SimpleHTTPRequestHandler):
    """A folder by ranges, as any static server gives it; `cut` counts connections that break."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One range, or half of it and a break."""
        path = self.server.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        body = data[first : last + 1]
        if self.server.cuts and len(body) > 1000:
            self.server.cuts -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def setup(self) -> None:
        """Count the connections that are open."""
        self.server.open += 1
        super().setup()

    def finish(self) -> None:
        """See `setup`."""
        super().finish()
        self.server.open -= 1

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@dataclass
class Stage:
    """A sealed model, served as `good` and, with one byte changed, as `bad`."""

    folder: Path
    sealed: Sealed
    server: Any
    ca: str
    host: Host = field(default_factory=Host)
    log: Events = field(default_factory=Events)

    def url(self, name: str) -> str:
        """Where a mirror has the file."""
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def loader(self, *mirrors: str) -> SealedLoader:
        """A loader that asks these, and then a custodian that has no such model."""
        settings = msgspec.convert(
            dict.fromkeys(Settings.__struct_fields__, 1)
            | dict.fromkeys(("loan", "attester", "custodian_name", "devices", "log_origin"), "")
            | {"custodian_root": ROOT.public, "custodian_ca": self.ca, "engine": "llama"}
            | {"file": b"", "log_key": b"", "context_tokens": 64, "dead_man_seconds": 60}
            | {"unsafe_engine_in_process": False, "unsafe_swapped_weights": False},
            Settings,
        )
        host: Any = self.host
        origin = self.url("custodian")
        return SealedLoader(host, settings, self.log, os.urandom, origin=origin, mirrors=mirrors)

    @property
    def lent(self) -> Lent:
        """What the custodian released."""
        model = ModelTerms("tiny", self.sealed.digest.hex(), self.sealed.model.sealed_bytes)
        policy = LeasePolicy(Duration(1), Duration(1), Units(1), False)
        terms = LoanTerms("loan", NAMED["per-token"], policy, model)
        return Lent(terms, Signed("", b"", b""), self.sealed.model_key, b"", 1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "model").mkdir()
    for name, data in CONTENTS.items():
        (tmp_path / "model" / name).write_bytes(data)
    names = {"name": "tiny", "version": "1", "engine": "llama", "licence": "MIT"}
    good = tmp_path / "good"
    sealed = seal_folder(tmp_path / "model", good, **names, root_key=ROOT, entropy=os.urandom)
    bad = bytearray(good.read_bytes())
    bad[-12 * SEGMENT_BYTES] ^= 1
    (tmp_path / "bad").write_bytes(bad)
    authority = make_authority(
        TlsKey.make(os.urandom),
        name="custodian",
        validity=Validity(Instant(0), Instant(40_000 * DAY)),
        entropy=os.urandom,
    )
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.folder, server.cuts, server.open = tmp_path, 0, 0
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Stage(tmp_path, sealed, server, authority.certificate)
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_mirror_that_breaks_off_is_resumed_and_progress_is_told(stage: Stage) -> None:
    stage.server.cuts = 3
    loader = stage.loader(stage.url("good"))
    assert await loader.load(stage.lent) == sum(map(len, CONTENTS.values()))
    assert stage.host.contents == CONTENTS
    assert stage.server.cuts == 0
    assert stage.log.of("source_dropped") == []
    told = stage.log.of("loading")
    total = sum(map(len, CONTENTS.values()))
    assert told[-1] == {"bytes": total, "of": total}
    assert 1 < len(told) <= 10
    await loader.wipe()


async def test_a_corrupt_segment_is_named_with_its_mirror_and_the_next_one_goes_on(
    stage: Stage,
) -> None:
    loader = stage.loader(stage.url("bad"), str(stage.folder / "missing"), stage.url("good"))
    await loader.load(stage.lent)
    assert stage.host.contents == CONTENTS
    bad, missing = stage.log.of("source_dropped")
    assert (bad["source"], bad["code"]) == (stage.url("bad"), "bad_sealed_model")
    assert "segment 18 of 31 of model.gguf" in str(bad["why"])
    assert (missing["source"], missing["code"]) == (str(stage.folder / "missing"), "file_trouble")
    assert "No such file" in str(missing["why"])
    await loader.wipe()


async def test_s19_a_model_for_another_engine_than_the_configuration_names_is_refused(
    stage: Stage,
) -> None:
    loader = stage.loader(stage.url("good"))
    loader.settings = msgspec.structs.replace(loader.settings, engine="onnx")
    with pytest.raises(WrongEngine) as refusal:
        await loader.load(stage.lent)
    assert (refusal.value.got, refusal.value.expected) == ("llama", "onnx")
    assert stage.log.said == []  # no source was dropped, nothing was loaded
    assert stage.host.settings == []


async def test_where_no_source_is_left_the_last_reason_is_the_error(stage: Stage) -> None:
    loader = stage.loader(str(stage.folder / "bad"))
    with pytest.raises(ModelUnreachable, match="status 404"):
        await loader.load(stage.lent)
    codes = [one["code"] for one in stage.log.of("source_dropped")]
    assert codes == ["bad_sealed_model", "model_unreachable"]
    assert stage.host.contents == {}
    with pytest.raises(NoModelYet, match="shredded"):
        loader._sink.file("x", 1)


async def test_no_connection_to_a_mirror_outlives_the_load(stage: Stage) -> None:
    loader = stage.loader(stage.url("good"))
    await loader.load(stage.lent)
    for _ in range(200):
        if stage.server.open == 0:
            break
        await asyncio.sleep(0.01)
    assert stage.server.open == 0
    await loader.wipe()


async def test_every_load_gives_the_engine_another_seed(stage: Stage) -> None:
    loader = stage.loader(str(stage.folder / "good"))
    for _ in range(3):
        await loader.load(stage.lent)
    seeds = {settings.seed for settings in stage.host.settings}
    assert len(seeds) == 3
    await loader.wipe()


@pytest.mark.parametrize("copies", [True, False])
async def test_what_the_engine_has_copied_is_in_the_files_no_more(
    stage: Stage, copies: bool
) -> None:
    stage.host.copies = copies
    loader = stage.loader(str(stage.folder / "good"))
    size = sum(map(len, CONTENTS.values()))
    assert await loader.load(stage.lent) == size
    held = sum(os.fstat(file.fd).st_size for file in loader._sink.files)
    assert held == (0 if copies else size)
    assert await loader.wipe() == size


async def test_wiping_takes_the_pages_while_a_worker_still_holds_the_descriptor(
    stage: Stage,
) -> None:
    loader = stage.loader(str(stage.folder / "good"))
    await loader.load(stage.lent)
    held = [os.dup(file.fd) for file in loader._sink.files]
    try:
        assert await loader.wipe() == sum(map(len, CONTENTS.values()))
        for handle in held:
            status = os.fstat(handle)
            assert (status.st_size, status.st_blocks) == (0, 0)
        assert loader._sink.files == []
    finally:
        for handle in held:
            os.close(handle)


async def test_a_bad_model_is_never_given_to_the_engine(stage: Stage) -> None:
    loader = stage.loader()
    shelf = stage.folder / "custodian" / "models"
    shelf.mkdir(parents=True)
    (shelf / stage.sealed.digest.hex()).write_bytes((stage.folder / "good").read_bytes()[:-1])
    with pytest.raises(BadSealedModel, match="length"):
        await loader.load(stage.lent)
    assert stage.host.settings == []
