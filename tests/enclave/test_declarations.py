"""I-7: what a worker says of its model is taken once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leasehold.core.frames import Capability, Loaded
from leasehold.core.tensors import DataType, Port
from leasehold.enclave import loader
from leasehold.errors import BadModel


class Host:
    """Loads nothing, and says what it is told to say."""

    def __init__(self, *says: Loaded) -> None:
        self.says = list(says)
        self.killed = 0

    async def prepare(self, _engine: str) -> None:
        """Nothing waits here."""

    async def load(self, *_: object) -> Loaded:
        return self.says.pop(0)

    async def kill(self) -> None:
        self.killed += 1


def declared(name: str) -> Loaded:
    ports = (Port(name, DataType.FP32, (-1,)),)
    return Loaded((Capability.INFER,), 1, 1, inputs=ports, outputs=ports)


async def test_a_worker_that_declares_others_at_its_next_start_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def load_sealed(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(plain_bytes=7)

    monkeypatch.setattr(loader, "load_sealed", load_sealed)
    monkeypatch.setattr(loader.SealedLoader, "_sources", lambda *_: [])
    nothing: Any = SimpleNamespace(
        event=lambda *_, **__: None,
        context_tokens=64,
        slots=1,
        threads=1,
        engine="onnx",
        unsafe_engine_in_process=False,
        custodian_root=b"",
        terms=SimpleNamespace(model=SimpleNamespace(digest="")),
        model_key=b"",
    )
    host: Any = Host(declared("x"), declared("x"), declared("secret"))
    made = loader.SealedLoader(host, nothing, nothing, bytes, "https://custodian", ())
    assert await made.load(nothing) == 7
    assert await made.load(nothing) == 7
    with pytest.raises(BadModel, match="inputs and outputs"):
        await made.load(nothing)
